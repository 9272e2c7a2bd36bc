//! The grammars of forwards: ssh_config's `8088 localhost:8088` and the command line's `8088:localhost:8088`.
//!
//! Addresses are read as they are written; what needs a token, `~`, or `gateway_ports` is settled in `resolve`.

use std::path::PathBuf;

use crate::addr::{BindAddr, Endpoint, HostPort, ListenAddr};
use crate::model::Forward;
use crate::parse::values;

/// The longest path that a Unix socket's address holds on every system we know (Linux: 108 with the final NUL).
pub const LONGEST_SOCKET_PATH: usize = 107;

/// Which grammar is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `-L`, LocalForward.
    Local,
    /// `-R`, RemoteForward.
    Remote,
    /// `-D`, DynamicForward.
    Dynamic,
}

impl Kind {
    /// What a forward of this kind looks like, for error messages.
    pub fn grammar(self) -> &'static str {
        match self {
            Self::Local => {
                "a local forward is \"[bind:]port host:hostport\", with a /path for either side"
            }
            Self::Remote => {
                "a remote forward is \"[bind:]port host:hostport\", with a /path for either side, or \"[bind:]port\" for reverse SOCKS"
            }
            Self::Dynamic => "a dynamic forward is \"[bind:]port\"",
        }
    }
}

/// Why a text is no forward: which part, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadForward(String);

fn bad<T>(why: impl Into<String>) -> Result<T, BadForward> {
    Err(BadForward(why.into()))
}

/// Reads a forward of either grammar.
///
/// # Errors
/// Which part is wrong, and how.
pub fn parse(kind: Kind, text: &str) -> Result<Forward, BadForward> {
    if let Some(c) = text.chars().find(|c| c.is_control() && *c != '\t') {
        return bad(format!(
            "the forward holds the control character U+{:04X}",
            u32::from(c)
        ));
    }
    let words = values::words(text).map_err(BadForward)?;
    match (kind, words.as_slice()) {
        (_, []) => bad("the forward is empty"),
        (Kind::Dynamic, [one]) => Ok(Forward::Dynamic {
            listen: listen(&fields(one)?)?,
        }),
        (Kind::Dynamic, _) => bad("a dynamic forward has no target: its clients name it"),
        (Kind::Local | Kind::Remote, [one]) => command_line(kind, one),
        (Kind::Local | Kind::Remote, [from, to]) => {
            made(kind, listen(&fields(from)?)?, Some(target(&fields(to)?)?))
        }
        _ => bad("the forward has more than a listening side and a target"),
    }
}

fn made(kind: Kind, listen: ListenAddr, to: Option<Endpoint>) -> Result<Forward, BadForward> {
    match (kind, to) {
        (Kind::Local, Some(to)) => Ok(Forward::Local { listen, to }),
        (Kind::Remote, to) => Ok(Forward::Remote { listen, to }),
        (Kind::Local, None) => bad("the target is missing"),
        (Kind::Dynamic, _) => Ok(Forward::Dynamic { listen }),
    }
}

/// `[bind:]port:host:hostport` and its kin with paths.
fn command_line(kind: Kind, word: &str) -> Result<Forward, BadForward> {
    let fields = fields(word)?;
    let (from, to) = match fields.as_slice() {
        [Field::Path(_)] | [Field::Text(_)] if kind == Kind::Remote => (fields.as_slice(), None),
        [Field::Text(_), Field::Text(_)] if kind == Kind::Remote => (fields.as_slice(), None),
        [from @ Field::Path(_), to @ ..] => (std::slice::from_ref(from), Some(to)),
        [from @ .., Field::Path(_)] => (from, fields.get(fields.len() - 1..)),
        [from @ .., _, _] => (from, fields.get(fields.len() - 2..)),
        _ => return bad("the target is missing"),
    };
    if from.is_empty() {
        return bad("the target is missing");
    }
    made(kind, listen(from)?, to.map(target).transpose()?)
}

#[derive(Debug, PartialEq, Eq)]
enum Field {
    /// A port, a name or an address, brackets taken off.
    Text(String),
    /// A path; `\` before a character had it taken as it is.
    Path(String),
}

/// Splits at the colons outside of brackets.
fn fields(word: &str) -> Result<Vec<Field>, BadForward> {
    let mut fields = Vec::new();
    let mut rest = word;
    loop {
        let (field, after) = if let Some(inside) = rest.strip_prefix('[') {
            let Some((address, after)) = inside.split_once(']') else {
                return bad(format!("`[` is not closed in `{word}`"));
            };
            if !after.is_empty() && !after.starts_with(':') {
                return bad(format!(
                    "`]` is followed by `{after}` where a colon belongs"
                ));
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

fn starts_path(text: &str) -> bool {
    ["/", "~/", "%d/", "${"]
        .iter()
        .any(|start| text.starts_with(start))
}

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

fn listen(fields: &[Field]) -> Result<ListenAddr, BadForward> {
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
        _ => bad("the listening side is [bind:]port or a /path; an IPv6 address goes in brackets"),
    }
}

fn target(fields: &[Field]) -> Result<Endpoint, BadForward> {
    match fields {
        [Field::Path(path)] => Ok(Endpoint::Unix(socket(path)?)),
        [Field::Text(host), Field::Text(port)] => {
            let port = self::port("target's", port)?;
            if port == 0 {
                return bad("the target's port is 0; it must be 1 to 65535");
            }
            Ok(Endpoint::Tcp(HostPort {
                host: name("target's host", host)?,
                port,
            }))
        }
        [Field::Text(one)] => bad(format!(
            "the target `{one}` lacks its port: write host:port"
        )),
        _ => bad("the target is host:port or a /path; an IPv6 address goes in brackets"),
    }
}

fn bind(address: &str) -> Result<BindAddr, BadForward> {
    match address {
        "" | "*" => Ok(BindAddr::Any),
        address => Ok(BindAddr::Host(name("listening address", address)?)),
    }
}

fn name(what: &str, text: &str) -> Result<String, BadForward> {
    if text.is_empty() {
        return bad(format!("the {what} is empty"));
    }
    if text.len() > 255 {
        return bad(format!("the {what} is longer than 255 bytes"));
    }
    match text
        .chars()
        .find(|c| c.is_whitespace() || "/\\\"'`$;&<>|(){}[]*?!,@".contains(*c))
    {
        Some(c) => bad(format!("the {what} `{text}` holds `{c}`")),
        None if text.starts_with('-') => bad(format!("the {what} `{text}` starts with `-`")),
        None => Ok(text.to_owned()),
    }
}

fn port(what: &str, text: &str) -> Result<u16, BadForward> {
    if text.is_empty() {
        return bad(format!("the {what} port is missing"));
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return bad(format!("the {what} port `{text}` is no number"));
    }
    text.parse()
        .or_else(|_| bad(format!("the {what} port {text} is outside 0 to 65535")))
}

fn socket(path: &str) -> Result<PathBuf, BadForward> {
    if path.len() > LONGEST_SOCKET_PATH {
        return bad(format!(
            "the socket's path has {} bytes; a Unix socket's address holds {LONGEST_SOCKET_PATH}",
            path.len()
        ));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests;
