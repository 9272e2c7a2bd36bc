//! The host part of a wildcard for URLs, and sample URLs that the wildcard and its translation are compared with.

use std::net::Ipv4Addr;

use super::rule_subject::{MAX_RULE, Subject};

/// The most `*` and `?` of one rule: each is filled with text for the samples.
const MAX_WILDCARDS: usize = 12;

/// The number of sample URLs for each translation.
const SAMPLES: usize = 20;

/// Last labels after which a `*` at a rule's end can only stand for the port and the path.
const LAST_LABELS: &[&str] = &[
    "app",
    "biz",
    "cloud",
    "com",
    "corp",
    "dev",
    "edu",
    "example",
    "gov",
    "home",
    "info",
    "int",
    "internal",
    "io",
    "lan",
    "local",
    "localhost",
    "mil",
    "net",
    "org",
    "test",
];

/// The host part of a wildcard.
#[derive(Debug)]
pub(super) struct Target {
    // `http` or `https`; `None` for both.
    scheme: Option<&'static str>,
    host: String,
    port: Option<u16>,
    // Whether the old rule says anything about ports, so that samples may have one.
    ports_count: bool,
    // Whether a `*` behind the host was left out.
    star_left_out: bool,
}

impl Target {
    pub(super) fn of(shape: &str, subject: Subject) -> Result<Self, String> {
        if shape.len() > MAX_RULE {
            return Err(format!("it is longer than {MAX_RULE} bytes"));
        }
        if shape.matches(['*', '?']).count() > MAX_WILDCARDS {
            return Err(format!("it has more than {MAX_WILDCARDS} wildcards"));
        }
        let (scheme, rest) = match (subject, shape.split_once("://")) {
            (Subject::Url, Some((scheme, rest))) => (scheme_of(scheme)?, rest),
            _ => (None, shape),
        };
        let end = match subject {
            Subject::Url => rest.find(['/', ':']).unwrap_or(rest.len()),
            Subject::Host => rest.len(),
        };
        let (host, behind) = rest.split_at(end);
        let port = behind
            .strip_prefix(':')
            .map(|rest| rest.split('/').next().unwrap_or_default());
        let port = match port {
            None | Some("*") => None,
            Some(port) => Some(
                port.parse()
                    .map_err(|_| "its port is not a number".to_owned())?,
            ),
        };
        let mut host = host.to_owned();
        let mut star_left_out = false;
        if subject == Subject::Url && behind.is_empty() && is_complete(&host) {
            host.pop();
            star_left_out = true;
        }
        Ok(Self {
            scheme,
            host,
            port,
            ports_count: subject == Subject::Host || behind.is_empty() || behind.starts_with(':'),
            star_left_out,
        })
    }

    /// The leading octets of an address, if the host is `10.*`, `192.168.*.*` and the like.
    fn octets(&self) -> Option<Vec<u8>> {
        let mut text = self.host.as_str();
        let starred = text.ends_with(".*");
        while let Some(rest) = text.strip_suffix(".*") {
            text = rest;
        }
        let octets: Option<Vec<u8>> = text.split('.').map(|part| part.parse().ok()).collect();
        octets.filter(|octets| starred && octets.len() < 4)
    }

    pub(super) fn pattern(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        match self.octets() {
            Some(octets) => {
                let address = address(&octets, [0, 0, 0]);
                format!("{address}/{}{port}", octets.len() * 8)
            }
            None => format!("{}{port}", self.host),
        }
    }

    pub(super) fn notes(&self, shown: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(scheme) = self.scheme {
            let other = if scheme == "http" { "https" } else { "http" };
            notes.push(format!(
                "{shown} was for {scheme} alone: {} is for {other} too",
                self.pattern()
            ));
        }
        if self.octets().is_some() {
            notes.push(format!(
                "{shown} became the network {}: names such as {} no longer match",
                self.pattern(),
                self.host.replace('*', "name")
            ));
        }
        if !self.ports_count {
            notes.push("rules with a path and no port counted for the ports 80 and 443; proxy_for is for every port".to_owned());
        }
        notes
    }

    /// Returns the URLs that the old and the new rule are compared with: hosts that match and hosts that nearly match.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let hosts = match self.octets() {
            Some(octets) => address_hosts(&octets),
            None => self.name_hosts(),
        };
        let ports = match self.port {
            Some(port) => [port, port, 8081, port],
            None if self.ports_count => [80, 443, 8088, 80],
            None => [80, 443, 80, 443],
        };
        let paths = [
            "/",
            "/cluster/apps?id=1",
            "/index.html",
            "/a/b/c/",
            "/x?y=http",
        ];
        let sample = |at: usize| Sample {
            scheme: self.scheme.unwrap_or(if at.is_multiple_of(2) {
                "http"
            } else {
                "https"
            }),
            host: hosts.get(at % hosts.len()).cloned().unwrap_or_default(),
            // Steps that have no common factor with the number of hosts, so that the combinations vary.
            port: ports.get(at / 3 % ports.len()).copied().unwrap_or(80),
            path: paths.get(at / 2 % paths.len()).copied().unwrap_or("/"),
        };
        (0..SAMPLES.max(hosts.len())).map(sample).collect()
    }

    fn name_hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = ["a", "ip-10-0-0-5", "x.y", "WWW7", "ec2-1-2-3-4.eu", ""]
            .iter()
            .map(|text| self.host.replace('*', text).replace('?', "q"))
            .collect();
        let one = hosts.first().cloned().unwrap_or_default();
        hosts.push(format!("z{one}"));
        hosts.push(one.strip_suffix(|_| true).unwrap_or_default().to_owned());
        hosts.push(one.replace('.', "-"));
        if !self.star_left_out {
            hosts.push(format!("{one}.other.example"));
        }
        hosts.extend(["www.example.org", "localhost", "192.0.2.7"].map(str::to_owned));
        hosts.retain(|host| {
            let odd = |c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c));
            !host.is_empty()
                && !host.starts_with('.')
                && !host.ends_with('.')
                && !host.contains("..")
                && !host.contains(odd)
        });
        hosts
    }
}

fn address_hosts(octets: &[u8]) -> Vec<String> {
    let with = |rest: [u8; 3]| address(octets, rest).to_string();
    let mut hosts = vec![
        with([0, 0, 1]),
        with([1, 2, 3]),
        with([255, 255, 254]),
        with([20, 30, 40]),
    ];
    for change in [1, 2, 100] {
        let mut other = octets.to_vec();
        if let Some(last) = other.last_mut() {
            *last = last.wrapping_add(change);
        }
        hosts.push(address(&other, [1, 2, 3]).to_string());
    }
    hosts.extend(["www.example.org", "ip-10-0-0-5.internal"].map(str::to_owned));
    hosts
}

/// An address of the leading octets and, behind them, of `rest`.
fn address(octets: &[u8], rest: [u8; 3]) -> Ipv4Addr {
    let mut all = octets.iter().copied().chain(rest);
    let mut next = || all.next().unwrap_or(0);
    Ipv4Addr::new(next(), next(), next(), next())
}

/// Whether the wildcard ends in a complete name and a `*`.
fn is_complete(host: &str) -> bool {
    let Some(name) = host.strip_suffix('*') else {
        return false;
    };
    let last = name
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let country = last.len() == 2 && last.bytes().all(|byte| byte.is_ascii_lowercase());
    name.contains('.') && (country || LAST_LABELS.contains(&last.as_str()))
}

fn scheme_of(text: &str) -> Result<Option<&'static str>, String> {
    match text.to_ascii_lowercase().as_str() {
        "*" | "http*" | "" => Ok(None),
        "http" => Ok(Some("http")),
        "https" => Ok(Some("https")),
        other => Err(format!("it is for {other}, not for web pages")),
    }
}

#[derive(Debug)]
pub(super) struct Sample {
    scheme: &'static str,
    pub(super) host: String,
    pub(super) port: u16,
    path: &'static str,
}

impl Sample {
    /// The URL as a browser writes it: without the scheme's own port.
    pub(super) fn url(&self) -> String {
        let own = if self.scheme == "http" { 80 } else { 443 };
        let port = match self.port {
            80 | 443 => String::new(),
            port if port == own => String::new(),
            port => format!(":{port}"),
        };
        format!(
            "{}://{}{port}{}",
            self.scheme,
            self.host.to_ascii_lowercase(),
            self.path
        )
    }
}
