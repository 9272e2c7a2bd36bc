//! What a tunnel's proxy is for: the patterns of `proxy_for`, from which the proxy auto-configuration file is made.

use std::fmt;
use std::net::IpAddr;

/// The longest pattern, in bytes: a name has at most 255.
const MAX_PATTERN: usize = 300;

/// One item of `proxy_for`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyPattern {
    /// `!`: what it matches does not use the proxy, whatever other patterns of the tunnel say.
    pub excludes: bool,
    /// The hosts that it matches.
    pub hosts: Hosts,
    /// The port that it matches, 1 to 65535; `None` for every port.
    pub port: Option<u16>,
}

/// The hosts of a [`ProxyPattern`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    /// A name in lower case, in which `*` matches any characters and `?` matches one. Characters: letters, digits, `-`,
    /// `.`, `_`, `*` and `?`.
    Glob(String),
    /// Every literal address of this network. Names are not resolved for it.
    Net {
        /// The first address of the network.
        address: IpAddr,
        /// The number of leading bits that count: at most 32, or 128 for IPv6.
        prefix: u8,
    },
}

/// Parses one item: `[!]HOST[:PORT]`, where HOST is a name, a glob, `.suffix`, an address or a network.
///
/// # Errors
/// A message that says what is wrong.
pub fn parse(text: &str) -> Result<ProxyPattern, String> {
    if text.len() > MAX_PATTERN {
        return Err(format!("a pattern is longer than {MAX_PATTERN} bytes"));
    }
    if text.contains("://") {
        return Err(format!(
            "`{text}` is a URL; proxy_for takes hosts, such as *.example.internal"
        ));
    }
    let (excludes, rest) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (host, port) = split_port(rest)?;
    Ok(ProxyPattern {
        excludes,
        hosts: hosts(host)?,
        port,
    })
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        // `[fd00::1]` or `[fd00::/8]:443`
        Some(rest) => {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| format!("`{text}` has no closing bracket"))?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(format!("`{text}` has text behind the bracket")),
            }
        }
        // More than one colon: an IPv6 address without a port.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    match port.map(str::parse::<u16>) {
        None => Ok((host, None)),
        Some(Ok(port)) if port != 0 => Ok((host, Some(port))),
        Some(_) => Err(format!("`{text}` needs a port from 1 to 65535")),
    }
}

fn hosts(text: &str) -> Result<Hosts, String> {
    if let Some((address, prefix)) = text.split_once('/') {
        return net(text, address, prefix);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        return Ok(Hosts::Net { address, prefix });
    }
    glob(text)
}

fn net(text: &str, address: &str, prefix: &str) -> Result<Hosts, String> {
    let parsed: IpAddr = address.parse().map_err(|_| {
        format!("`{text}` is neither a host nor a network such as 10.0.0.0/8 or fd00::/8")
    })?;
    let bits = if parsed.is_ipv4() { 32 } else { 128 };
    let prefix = prefix
        .parse()
        .ok()
        .filter(|&prefix| prefix <= bits)
        .ok_or_else(|| format!("`{text}` needs a prefix from 0 to {bits}"))?;
    let first = first_address(parsed, prefix);
    if first == parsed {
        Ok(Hosts::Net {
            address: parsed,
            prefix,
        })
    } else {
        Err(format!(
            "`{text}` has bits behind its prefix; write {first}/{prefix}"
        ))
    }
}

/// Returns the first address of the network that `address` is in.
fn first_address(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

fn glob(text: &str) -> Result<Hosts, String> {
    if text.is_empty() {
        return Err("a pattern without a host".to_owned());
    }
    if !text.is_ascii() {
        return Err(format!(
            "`{text}` is not ASCII; browsers compare the encoded name, so write that (xn--…)"
        ));
    }
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*' | b'?');
    if let Some(bad) = text.bytes().find(|byte| !allowed(*byte)) {
        return Err(format!(
            "`{text}` has `{}`",
            char::from(bad).escape_default()
        ));
    }
    // `.suffix` is how NO_PROXY and other lists write `*.suffix`.
    let star = if text.starts_with('.') { "*" } else { "" };
    let text = text.strip_suffix('.').unwrap_or(text);
    Ok(Hosts::Glob(format!("{star}{}", text.to_ascii_lowercase())))
}

impl fmt::Display for ProxyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.excludes {
            f.write_str("!")?;
        }
        let host = match &self.hosts {
            Hosts::Glob(glob) => glob.clone(),
            Hosts::Net { address, prefix } => format!("{address}/{prefix}"),
        };
        match self.port {
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(&host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_networks_ports_and_exclusions() {
        for (text, shown) in [
            ("*.Compute.internal", "*.compute.internal"),
            (".ec2.internal", "*.ec2.internal"),
            ("host.example.", "host.example"),
            ("!bastion.internal:22", "!bastion.internal:22"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("fd00::/8", "fd00::/8"),
            ("fd00::1", "fd00::1/128"),
            ("[fd00::1]:443", "[fd00::1/128]:443"),
            ("[fd00::/8]", "fd00::/8"),
            ("*", "*"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(
                parse(text).map(|pattern| pattern.to_string()).as_deref(),
                Ok(shown)
            );
        }
    }

    #[test]
    fn a_pattern_says_what_is_wrong_with_it() {
        for (text, part) in [
            ("", "without a host"),
            ("http://10.*", "URL"),
            ("*://host/*", "URL"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("fd00::1/8", "write fd00::/8"),
            ("10.0.0.0/33", "0 to 32"),
            ("host:0", "1 to 65535"),
            ("host:x", "1 to 65535"),
            ("[fd00::1", "bracket"),
            ("bücher.example", "xn--"),
            ("a b", "` `"),
            ("a\"b", "has `"),
            (&"x".repeat(301), "longer"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
