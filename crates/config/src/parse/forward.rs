//! The grammars of forwards: ssh_config's `8088 localhost:8088` and the command line's `8088:localhost:8088`.
//!
//! Addresses stay as they are written: `resolve` expands tokens and `~` and applies `gateway_ports`.

use std::path::PathBuf;

use crate::addr::{BindAddr, Endpoint, HostPort, ListenAddr};
use crate::model::{DNS_PORT, Forward, default_dns_server};
use crate::parse::values;

/// The longest path of a Unix socket, in bytes: `sun_path` of unix(7) has 108 with the final NUL.
pub const MAX_SOCKET_PATH: usize = 107;

/// The kind of a forward, which decides its grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForwardGrammar {
    /// `ssh -L`, LocalForward, `local_forward`.
    Local,
    /// `ssh -R`, RemoteForward, `remote_forward`.
    Remote,
    /// `ssh -D`, DynamicForward, `dynamic_forward`.
    Dynamic,
    /// `dns_listen`.
    Dns,
}

impl ForwardGrammar {
    /// The grammar in one sentence, as help for error messages.
    pub fn grammar(self) -> &'static str {
        match self {
            Self::Local => {
                "a local forward is \"[bind:]port host:hostport\"; either side can be a /path"
            }
            Self::Remote => {
                "a remote forward is \"[bind:]port host:hostport\"; either side can be a /path; \"[bind:]port\" alone is reverse SOCKS"
            }
            Self::Dynamic => "a dynamic forward is \"[bind:]port\"",
            Self::Dns => "dns_listen is \"[bind:]port\"; the server to ask is dns_server",
        }
    }
}

/// Why a text is not a forward: which part is wrong and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ForwardError(String);

fn bad<T>(why: impl Into<String>) -> Result<T, ForwardError> {
    Err(ForwardError(why.into()))
}

/// Parses a forward in either grammar.
///
/// # Errors
/// Which part is wrong and why.
pub fn parse(kind: ForwardGrammar, text: &str) -> Result<Forward, ForwardError> {
    // A tab separates words in ssh_config.
    if let Some(c) = text.chars().find(|c| c.is_control() && *c != '\t') {
        return bad(format!(
            "the forward contains the control character U+{:04X}",
            u32::from(c)
        ));
    }
    let words = values::split_words(text).map_err(ForwardError)?;
    match (kind, words.as_slice()) {
        (_, []) => bad("the forward is empty"),
        (ForwardGrammar::Dynamic, [one]) => Ok(Forward::Dynamic {
            listen: listen(&fields(one)?)?,
        }),
        (ForwardGrammar::Dynamic, _) => {
            bad("a dynamic forward has no target: the SOCKS clients choose it")
        }
        (ForwardGrammar::Dns, [one]) => dns(listen(&fields(one)?)?),
        (ForwardGrammar::Dns, _) => {
            bad("dns_listen has no target: the server to ask is dns_server")
        }
        (ForwardGrammar::Local | ForwardGrammar::Remote, [one]) => command_line(kind, one),
        (ForwardGrammar::Local | ForwardGrammar::Remote, [from, to]) => {
            build(kind, listen(&fields(from)?)?, Some(target(&fields(to)?)?))
        }
        _ => bad("the forward has more than two parts; it is a listening side and a target"),
    }
}

fn build(
    kind: ForwardGrammar,
    listen: ListenAddr,
    to: Option<Endpoint>,
) -> Result<Forward, ForwardError> {
    match (kind, to) {
        (ForwardGrammar::Local, Some(to)) => Ok(Forward::Local { listen, to }),
        // Without a target it is reverse SOCKS (`ssh -R port`).
        (ForwardGrammar::Remote, to) => Ok(Forward::Remote { listen, to }),
        (ForwardGrammar::Local, None) => bad("the target is missing"),
        (ForwardGrammar::Dynamic, _) => Ok(Forward::Dynamic { listen }),
        (ForwardGrammar::Dns, _) => dns(listen),
    }
}

/// Makes a DNS listener with the default server.
fn dns(listen: ListenAddr) -> Result<Forward, ForwardError> {
    match listen {
        ListenAddr::Unix(_) => bad("DNS is not served on a Unix socket"),
        listen @ ListenAddr::Tcp { .. } => Ok(Forward::Dns {
            listen,
            server: default_dns_server(),
        }),
    }
}

/// Parses `dns_server`: `host[:port]`, with brackets around an IPv6 address that a port follows.
///
/// # Errors
/// Which part is wrong and why.
pub fn parse_dns_server(text: &str) -> Result<HostPort, ForwardError> {
    // An IPv6 address alone has more than one colon and no brackets.
    if let Ok(address) = text.parse::<std::net::Ipv6Addr>() {
        return Ok(HostPort {
            host: address.to_string(),
            port: DNS_PORT,
        });
    }
    let (host, port) = match fields(text)?.as_slice() {
        [Field::Text(host)] => (name("DNS server's host", host)?, DNS_PORT),
        [Field::Text(host), Field::Text(port)] => (
            name("DNS server's host", host)?,
            self::port("DNS server's", port)?,
        ),
        _ => return bad("a DNS server is host[:port]; an IPv6 address needs brackets"),
    };
    if port == 0 {
        return bad("the DNS server's port is 0; it must be 1 to 65535");
    }
    if let Some(c) = host.chars().find(|c| c.is_control()) {
        return bad(format!(
            "the DNS server's host contains the control character U+{:04X}",
            u32::from(c)
        ));
    }
    Ok(HostPort { host, port })
}

/// Parses the command line's form `[bind:]port:host:hostport`, with a path for either side. Where the listening side
/// ends depends on the number of fields and on which are paths.
fn command_line(kind: ForwardGrammar, word: &str) -> Result<Forward, ForwardError> {
    let fields = fields(word)?;
    let (from, to) = match fields.as_slice() {
        // A remote forward may lack the target, so that one or two fields can only be the listening side.
        [Field::Path(_)] | [Field::Text(_)] if kind == ForwardGrammar::Remote => {
            (fields.as_slice(), None)
        }
        [Field::Text(_), Field::Text(_)] if kind == ForwardGrammar::Remote => {
            (fields.as_slice(), None)
        }
        [from @ Field::Path(_), to @ ..] => (std::slice::from_ref(from), Some(to)),
        // The target is read from the end: its host may not be left out, the bind address may.
        [from @ .., Field::Path(_)] => (from, fields.get(fields.len() - 1..)),
        [from @ .., _, _] => (from, fields.get(fields.len() - 2..)),
        _ => return bad("the target is missing"),
    };
    if from.is_empty() {
        return bad("the target is missing");
    }
    build(kind, listen(from)?, to.map(target).transpose()?)
}

#[derive(Debug, PartialEq, Eq)]
enum Field {
    /// A port, a name or an address, without brackets.
    Text(String),
    /// A path, unescaped: `\` before a character, such as a colon, takes it literally.
    Path(String),
}

/// Splits at the colons that are outside brackets.
fn fields(word: &str) -> Result<Vec<Field>, ForwardError> {
    let mut fields = Vec::new();
    let mut rest = word;
    loop {
        // In brackets a colon does not separate: IPv6 addresses.
        let (field, after) = if let Some(inside) = rest.strip_prefix('[') {
            let Some((address, after)) = inside.split_once(']') else {
                return bad(format!("`[` is not closed in `{word}`"));
            };
            if !after.is_empty() && !after.starts_with(':') {
                return bad(format!("expected a colon after `]`, found `{after}`"));
            }
            (Field::Text(address.to_owned()), after)
        } else if starts_path(rest) {
            let (path, after) = path(rest);
            (Field::Path(path), after)
        } else {
            let end = rest.find(':').unwrap_or(rest.len());
            let (text, after) = rest.split_at(end);
            (Field::Text(text.to_owned()), after)
        };
        fields.push(field);
        match after.strip_prefix(':') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// Whether a field is a path: absolute, or with one of the expansions that give an absolute path.
fn starts_path(text: &str) -> bool {
    ["/", "~/", "%d/", "${"]
        .iter()
        .any(|start| text.starts_with(start))
}

/// Splits an unescaped path off, up to the next colon.
fn path(text: &str) -> (String, &str) {
    let mut path = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, next)) => path.push(next),
                None => path.push('\\'),
            },
            ':' => return (path, text.get(at..).unwrap_or_default()),
            c => path.push(c),
        }
    }
    (path, "")
}

fn listen(fields: &[Field]) -> Result<ListenAddr, ForwardError> {
    match fields {
        [Field::Path(path)] => Ok(ListenAddr::Unix(socket(path)?)),
        [Field::Text(port)] => Ok(ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port: self::port("listening", port)?,
        }),
        [Field::Text(address), Field::Text(port)] => Ok(ListenAddr::Tcp {
            bind: bind(address)?,
            port: self::port("listening", port)?,
        }),
        _ => bad("the listening side is [bind:]port or a /path; an IPv6 address needs brackets"),
    }
}

fn target(fields: &[Field]) -> Result<Endpoint, ForwardError> {
    match fields {
        [Field::Path(path)] => Ok(Endpoint::Unix(socket(path)?)),
        [Field::Text(host), Field::Text(port)] => {
            let port = self::port("target's", port)?;
            // 0 means "any free port", which only a listener can have.
            if port == 0 {
                return bad("the target's port is 0; it must be 1 to 65535");
            }
            Ok(Endpoint::Tcp(HostPort {
                host: name("target's host", host)?,
                port,
            }))
        }
        [Field::Text(one)] => bad(format!("the target `{one}` has no port: write host:port")),
        _ => bad("the target is host:port or a /path; an IPv6 address needs brackets"),
    }
}

fn bind(address: &str) -> Result<BindAddr, ForwardError> {
    match address {
        // An empty address is ssh's other spelling of `*`: `:8080:host:80`.
        "" | "*" => Ok(BindAddr::Any),
        address => Ok(BindAddr::Host(name("listening address", address)?)),
    }
}

fn name(what: &str, text: &str) -> Result<String, ForwardError> {
    if text.is_empty() {
        return bad(format!("the {what} is empty"));
    }
    if text.len() > 255 {
        return bad(format!("the {what} is longer than 255 bytes"));
    }
    match text
        .chars()
        // Host names with characters of a shell are refused early: names reach logs, commands and the server.
        .find(|c| c.is_whitespace() || "/\\\"'`$;&<>|(){}[]*?!,@".contains(*c))
    {
        Some(c) => bad(format!("the {what} `{text}` contains `{c}`")),
        None if text.starts_with('-') => bad(format!("the {what} `{text}` starts with `-`")),
        None => Ok(text.to_owned()),
    }
}

fn port(what: &str, text: &str) -> Result<u16, ForwardError> {
    if text.is_empty() {
        return bad(format!("the {what} port is missing"));
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return bad(format!("the {what} port `{text}` is not a number"));
    }
    text.parse()
        .or_else(|_| bad(format!("the {what} port {text} is outside 0 to 65535")))
}

fn socket(path: &str) -> Result<PathBuf, ForwardError> {
    if path.len() > MAX_SOCKET_PATH {
        return bad(format!(
            "the path of the socket has {} bytes; the maximum is {MAX_SOCKET_PATH}",
            path.len()
        ));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests;
