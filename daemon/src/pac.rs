//! The proxy auto-configuration file: which proxy a browser uses for which host.
//!
//! ECMAScript 3 with strings and regular expressions alone, because browsers, the JVM and WinHTTP have different engines.
//! None of the PAC built-ins: `shExpMatch` escapes differently in each engine, and `isInNet` and `dnsResolve` resolve the
//! name here, which blocks the browser and leaks far names. The answer is one `PROXY` without an alternative: a browser
//! that finds a proxy bad once uses the alternative for every later host.

use std::fmt::Write as _;
use std::net::IpAddr;

use tunneld_config::proxy_for::{Hosts, ProxyPattern};

/// What one tunnel contributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacTunnel {
    /// The address of its proxy, as `HOST:PORT`.
    pub proxy: String,
    /// Its patterns; those that exclude win over the others of the same tunnel.
    pub patterns: Vec<ProxyPattern>,
}

/// The functions that the conditions call. `host` is lower case, without brackets and trailing dot; `port` is a string.
const PRELUDE: &str = r#"function v4(host) {
  var p = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(host);
  if (!p || p[1] > 255 || p[2] > 255 || p[3] > 255 || p[4] > 255) return -1;
  return ((+p[1] * 256 + +p[2]) * 256 + +p[3]) * 256 + +p[4];
}
function v6(host) {
  var tail = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(host), i, n;
  if (tail) {
    n = v4(tail[2]);
    if (n < 0) return null;
    host = tail[1] + Math.floor(n / 65536).toString(16) + ":" + (n % 65536).toString(16);
  }
  if (host.indexOf(":") < 0 || !/^[0-9a-f:]+$/.test(host)) return null;
  var halves = host.split("::");
  if (halves.length > 2) return null;
  var head = halves[0] ? halves[0].split(":") : [];
  var rest = halves.length > 1 && halves[1] ? halves[1].split(":") : [];
  if (halves.length > 1) while (head.length + rest.length < 8) head.push("0");
  head = head.concat(rest);
  if (head.length !== 8) return null;
  for (i = 0; i < 8; i++) head[i] = parseInt(head[i], 16);
  return head;
}
function in4(host, first, size) {
  var n = v4(host);
  return n >= first && n < first + size;
}
function in6(host, first, bits) {
  var a = v6(host), i, unit;
  if (!a) return false;
  for (i = 0; i < 8 && bits > 0; i++, bits -= 16) {
    unit = bits >= 16 ? 1 : Math.pow(2, 16 - bits);
    if (Math.floor(a[i] / unit) !== Math.floor(first[i] / unit)) return false;
  }
  return true;
}
"#;

/// The beginning of the function that browsers call.
const HEAD: &str = r#"function FindProxyForURL(url, host) {
  host = host.toLowerCase().replace(/^\[|\]$/g, "").replace(/\.$/, "");
  var at = /^([a-z][a-z0-9+.\-]*):\/\/(?:[^\/?#@]*@)?(?:\[[^\]]*\]|[^:\/?#]*)(?::(\d+))?/i.exec(url);
  var scheme = at ? at[1].toLowerCase() : "";
  var port = at && at[2] ? at[2] : scheme === "https" || scheme === "wss" ? "443" : scheme === "ftp" ? "21" : "80";
"#;

/// Returns the file. The first tunnel that matches a request decides.
pub fn file(tunnels: &[PacTunnel]) -> String {
    let mut file = String::from("// Made by tunneld from proxy_for; see docs/browsers.md.\n");
    file.push_str(PRELUDE);
    file.push_str(HEAD);
    for tunnel in tunnels {
        let condition = |excludes| {
            let patterns = tunnel.patterns.iter();
            let terms: Vec<String> = patterns
                .filter(|pattern| pattern.excludes == excludes)
                .map(term)
                .collect();
            terms.join(" || ")
        };
        let (included, excluded) = (condition(false), condition(true));
        if included.is_empty() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = if excluded.is_empty() {
            writeln!(file, "  if ({included}) return \"PROXY {}\";", tunnel.proxy)
        } else {
            writeln!(
                file,
                "  if (!({excluded}) && ({included})) return \"PROXY {}\";",
                tunnel.proxy
            )
        };
    }
    file.push_str("  return \"DIRECT\";\n}\n");
    file
}

/// Returns an expression that is true if the pattern matches. Everything in it is a number, or of the characters that
/// `proxy_for` allows: no quote, slash or backslash.
fn term(pattern: &ProxyPattern) -> String {
    let host = match &pattern.hosts {
        Hosts::Glob(glob) => format!("/^{}$/.test(host)", regex(glob)),
        Hosts::Net {
            address: IpAddr::V4(address),
            prefix,
        } => {
            let size = 1u64 << (32 - u32::from(*prefix).min(32));
            format!("in4(host, {}, {size})", address.to_bits())
        }
        Hosts::Net {
            address: IpAddr::V6(address),
            prefix,
        } => format!("in6(host, {:?}, {prefix})", address.segments()),
    };
    match pattern.port {
        Some(port) => format!("({host} && port === \"{port}\")"),
        None => host,
    }
}

/// Returns the glob as a regular expression without anchors.
fn regex(glob: &str) -> String {
    let mut regex = String::new();
    for c in glob.chars() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            c if c.is_ascii_alphanumeric() || c == '_' => regex.push(c),
            c => {
                regex.push('\\');
                regex.push(c);
            }
        }
    }
    regex
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunneld_config::proxy_for::parse;

    #[test]
    fn the_first_tunnel_that_matches_decides_and_exclusions_win() {
        let tunnel = |proxy: &str, patterns: &[&str]| PacTunnel {
            proxy: proxy.to_owned(),
            patterns: patterns.iter().map(|text| parse(text).unwrap()).collect(),
        };
        let file = file(&[
            tunnel(
                "127.0.0.1:1",
                &["*.a-b.internal", "!no.a-b.internal", "h:8088"],
            ),
            tunnel("[::1]:2", &["10.0.0.0/8", "fd00::/8"]),
            tunnel("127.0.0.1:3", &["!only.excluded"]),
        ]);
        let rules: Vec<&str> = file.lines().filter(|line| line.contains("PROXY")).collect();
        assert_eq!(
            rules,
            [
                r#"  if (!(/^no\.a\-b\.internal$/.test(host)) && (/^.*\.a\-b\.internal$/.test(host) || (/^h$/.test(host) && port === "8088"))) return "PROXY 127.0.0.1:1";"#,
                r#"  if (in4(host, 167772160, 16777216) || in6(host, [64768, 0, 0, 0, 0, 0, 0, 0], 8)) return "PROXY [::1]:2";"#,
            ]
        );
        assert!(file.ends_with("  return \"DIRECT\";\n}\n"));
    }
}
