//! `[user@]host[:port]`, and which characters a host, a user and a tunnel's name may have. The rules are OpenSSH's, a
//! little stricter: hosts and users reach shells (ProxyCommand), option parsers (`ssh -G`) and terminals.

use tunneld_proto::text::is_unsafe;
pub use tunneld_toml::name::check_name;

use crate::addr::Destination;

/// Parses `[user@]host[:port]` or `ssh://[user@]host[:port]`; an IPv6 address with a port needs brackets.
///
/// # Errors
/// Which part is wrong and why.
pub fn parse(text: &str) -> Result<Destination, String> {
    let (uri, rest) = match text.strip_prefix("ssh://") {
        Some(rest) => (true, rest.strip_suffix('/').unwrap_or(rest)),
        None => (false, text),
    };
    // At the last `@`, as ssh: a user may contain one (`me@corp@host`).
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let (host, port) = if let Some(inside) = rest.strip_prefix('[') {
        let (host, after) = inside.split_once(']').ok_or("`[` is not closed")?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => {
                return Err(format!("expected a colon after `]`, found `{after}`"));
            }
        }
    } else {
        match rest.split_once(':') {
            // More than one colon and no brackets: an IPv6 address alone.
            Some((_, port)) if port.contains(':') && !uri => (rest, None),
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        }
    };
    if let Some(user) = user {
        check_user(user)?;
    }
    check_host(host)?;
    let port = port.map(self::port).transpose()?;
    Ok(Destination {
        user: user.map(str::to_owned),
        host: host.to_owned(),
        port,
    })
}

/// Parses a port, 1 to 65535.
///
/// # Errors
/// Why it is not one.
pub fn port(text: &str) -> Result<u16, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("the port `{text}` is not a number"));
    }
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("the port {text} is outside 1 to 65535")),
    }
}

/// Checks a host name or address: refuses what a shell, an option parser or a terminal could misinterpret.
///
/// # Errors
/// Why it is refused.
pub fn check_host(host: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err("the host is empty".into());
    }
    if host.len() > 255 {
        return Err("the host is longer than 255 bytes".into());
    }
    if host.starts_with('-') {
        return Err(format!("the host `{host}` starts with `-`"));
    }
    // An IPv6 address may have a zone: `fe80::1%eth0`.
    let zone = host.contains(':');
    let address = needs_command(host);
    let is_allowed = |c: char| match address {
        Some(_) => "/%@".contains(c),
        None => zone && c == '%',
    };
    match address
        .unwrap_or(host)
        .chars()
        .find(|c| bad_in_host(*c) && !is_allowed(*c))
    {
        Some(c) => Err(format!("the host `{host}` contains {}", describe(c))),
        None => Ok(()),
    }
}

/// The address after the prefix of a host that systemd-ssh-proxy(1) understands, such as `unix/PATH` or `vsock/3`; `None`
/// for all others. Only a ProxyCommand can reach such a host.
pub(crate) fn needs_command(host: &str) -> Option<&str> {
    let kinds = ["unix", "vsock", "vsock-mux", "machine"];
    let (kind, address) = host.split_once(['/', '%'])?;
    kinds.contains(&kind).then_some(address)
}

fn bad_in_host(c: char) -> bool {
    c.is_whitespace() || is_unsafe(c) || "'`\"$\\;&<>|(){},*?[]!/#@%".contains(c)
}

/// Checks a user name by ssh's own rule (`valid_ruser` in ssh.c): refuses what a shell or an option parser could
/// misinterpret, and what a terminal could.
///
/// # Errors
/// Why it is refused.
pub fn check_user(user: &str) -> Result<(), String> {
    if user.is_empty() {
        return Err("the user is empty".into());
    }
    if user.len() > 255 {
        return Err("the user is longer than 255 bytes".into());
    }
    if user.starts_with('-') {
        return Err(format!("the user `{user}` starts with `-`"));
    }
    if user.ends_with('\\') {
        return Err(format!("the user `{user}` ends with `\\`"));
    }
    if user.contains(" -") {
        return Err(format!("the user `{user}` has a `-` after a space"));
    }
    let bad =
        |c: char| (c.is_whitespace() && c != ' ') || is_unsafe(c) || "'`\";&<>|(){}".contains(c);
    match user.chars().find(|c| bad(*c)) {
        Some(c) => Err(format!("the user `{user}` contains {}", describe(c))),
        None => Ok(()),
    }
}

/// A character for a message: by its number if it cannot be shown.
fn describe(c: char) -> String {
    if c.is_whitespace() || is_unsafe(c) {
        format!("the character U+{:04X}", u32::from(c))
    } else {
        format!("`{c}`")
    }
}

/// Checks a HostKeyAlias: a name in known_hosts, such as `bastion` or `[127.0.0.1]:2222`. It never reaches a shell, so
/// only what has a meaning in known_hosts is refused.
///
/// # Errors
/// Why it is refused.
pub fn check_alias(alias: &str) -> Result<(), String> {
    let odd = |c: &char| c.is_whitespace() || c.is_control() || "*?!,|#@".contains(*c);
    match (alias.is_empty(), alias.chars().find(odd)) {
        (true, _) => Err("the alias is empty".into()),
        (false, Some(c)) => Err(format!("a host key alias cannot contain {}", describe(c))),
        (false, None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_parsed_and_printed() {
        for (text, user, host, port) in [
            ("host", None, "host", None),
            ("u@host", Some("u"), "host", None),
            ("u@host:2222", Some("u"), "host", Some(2222)),
            ("a@b@host", Some("a@b"), "host", None),
            ("::1", None, "::1", None),
            ("u@[::1]:22", Some("u"), "::1", Some(22)),
            ("[fe80::1%eth0]", None, "fe80::1%eth0", None),
            ("ssh://u@host:22/", Some("u"), "host", Some(22)),
            ("ssh://[::1]", None, "::1", None),
            ("CORP\\alice@host", Some("CORP\\alice"), "host", None),
            ("John Smith@host:22", Some("John Smith"), "host", Some(22)),
            ("svc$@host", Some("svc$"), "host", None),
            ("vault%t#dom@host", Some("vault%t#dom"), "host", None),
            ("unix/run/ssh.sock", None, "unix/run/ssh.sock", None),
            ("vsock/3", None, "vsock/3", None),
            ("root@machine%c1", Some("root"), "machine%c1", None),
        ] {
            let expected = Destination {
                user: user.map(Into::into),
                host: host.into(),
                port,
            };
            assert_eq!(parse(&expected.to_string()), Ok(expected.clone()), "{text}");
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn characters_that_a_shell_or_a_parser_could_misinterpret_are_refused() {
        for text in [
            "",
            "a b",
            "a\nb",
            "a;b",
            "$(x)",
            "%h",
            "-x",
            "u@-x",
            "-u@x",
            "u;@x",
            "u\\@x",
            "`u`@x",
            "$(u)@x",
            "${u}@x",
            "u -v@x",
            "u\tv@x",
            "unix/$(x)",
            "vsock/-1;x",
            "nfs/x",
            "x:0",
            "x:65536",
            "x:-1",
            "x:22 ",
            "x:",
            "[::1",
            "[::1]x",
            "u@",
            "@x",
            "a\u{202e}b",
            "a*",
            "x/y",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        for name in [
            "",
            "a/b",
            "..",
            "-a",
            "a\nb",
            "\u{1b}",
            "ä",
            &"x".repeat(300),
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert_eq!(check_name("db.prod-1_x"), Ok(()));
        for alias in ["bastion", "[127.0.0.1]:22401", "::1", "a_b"] {
            assert_eq!(check_alias(alias), Ok(()), "{alias}");
        }
        for alias in ["", "a b", "a,b", "*", "!a", "|1|x", "a\n", "@revoked"] {
            assert!(check_alias(alias).is_err(), "{alias:?}");
        }
    }
}
