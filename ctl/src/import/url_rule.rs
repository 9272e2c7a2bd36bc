//! A rule of a browser's proxy switcher as entries of `proxy_for`. Old rules match URLs, `proxy_for` matches hosts, so each
//! translation is tried: a rule is carried over only if sample URLs get the same answer from both.

use std::net::{IpAddr, Ipv4Addr};

use regex_lite::{Regex, RegexBuilder};
use tunneld_toml::proxy_for::{self, Hosts, ProxyPattern};

use super::host_regex;

/// The longest rule that is read, in bytes. A browser's URL bar holds about as much.
const MAX_RULE: usize = 1024;

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

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Url,
    Host,
}

/// A rule with its old meaning.
#[derive(Debug)]
pub(super) struct UrlRule {
    // As it is in the file.
    shown: String,
    subject: Subject,
    matcher: Regex,
    // Wildcards of URLs or hosts that together mean the same.
    shapes: Vec<String>,
}

/// What a rule became.
#[derive(Debug, PartialEq)]
pub(super) struct Translation {
    /// Entries of `proxy_for`, without `!`.
    pub(super) patterns: Vec<String>,
    /// How they differ from the rule.
    pub(super) notes: Vec<String>,
}

impl UrlRule {
    /// A wildcard in which `*` matches any text and `?` one character, and which must match the whole subject.
    pub(super) fn wildcard(
        shown: &str,
        subject: Subject,
        glob: &str,
        case: bool,
    ) -> Result<Self, String> {
        let matcher = regex(&format!("^{}$", regex_of(glob)), case)?;
        Ok(Self {
            shown: shown.to_owned(),
            subject,
            matcher,
            shapes: vec![glob.to_owned()],
        })
    }

    /// A rule whose meaning is `pattern`, which the wildcards `shapes` are thought to equal.
    pub(super) fn shaped(
        shown: &str,
        subject: Subject,
        pattern: &str,
        shapes: Vec<String>,
    ) -> Result<Self, String> {
        Ok(Self {
            shown: shown.to_owned(),
            subject,
            matcher: regex(pattern, false)?,
            shapes,
        })
    }

    /// A domain and everything below it.
    pub(super) fn domain(shown: &str, domain: &str) -> Result<Self, String> {
        let pattern = format!("(^|\\.){}$", regex_of(domain));
        let shapes = vec![domain.to_owned(), format!("*.{domain}")];
        Self::shaped(shown, Subject::Host, &pattern, shapes)
    }

    /// A regular expression that may match anywhere in the subject.
    pub(super) fn regex(
        shown: &str,
        subject: Subject,
        pattern: &str,
        case: bool,
    ) -> Result<Self, String> {
        let shapes = host_regex::shapes(pattern, subject)
            .ok_or("a regular expression that is not plainly about hosts")?;
        Ok(Self {
            shown: shown.to_owned(),
            subject,
            matcher: regex(pattern, case)?,
            shapes,
        })
    }

    /// Translates the rule.
    ///
    /// # Errors
    /// Why it cannot be carried over.
    pub(super) fn translate(&self) -> Result<Translation, String> {
        let mut notes = Vec::new();
        let mut targets = Vec::new();
        for shape in &self.shapes {
            targets.push(Target::of(shape, self.subject)?);
        }
        let texts: Vec<String> = targets.iter().map(Target::pattern).collect();
        let parsed: Result<Vec<ProxyPattern>, String> =
            texts.iter().map(|text| proxy_for::parse(text)).collect();
        let parsed = parsed?;
        for target in &targets {
            if let Some(sample) = target
                .samples()
                .iter()
                .find(|sample| !self.agrees(&parsed, sample))
            {
                return Err(format!("{} would not be treated as before", sample.url()));
            }
            notes.extend(target.notes(&self.shown));
        }
        Ok(Translation {
            patterns: texts,
            notes,
        })
    }

    fn agrees(&self, patterns: &[ProxyPattern], sample: &Sample) -> bool {
        let old = match self.subject {
            Subject::Url => self.matcher.is_match(&sample.url()),
            Subject::Host => self.matcher.is_match(&sample.host),
        };
        old == patterns
            .iter()
            .any(|pattern| matches(pattern, &sample.host, sample.port))
    }
}

/// Whether the browser would use the proxy for the host and the port.
pub(super) fn matches(pattern: &ProxyPattern, host: &str, port: u16) -> bool {
    let hit = match &pattern.hosts {
        Hosts::Glob(glob) => glob_matches(glob.as_bytes(), host.to_ascii_lowercase().as_bytes()),
        Hosts::Net { address, prefix } => match (host.parse::<IpAddr>(), address) {
            (Ok(IpAddr::V4(host)), IpAddr::V4(net)) => {
                let shift = 32 - u32::from(*prefix);
                let bits = |address: Ipv4Addr| address.to_bits().checked_shr(shift).unwrap_or(0);
                bits(host) == bits(*net)
            }
            (Ok(host), net) => *prefix == 128 && host == *net,
            (Err(_), _) => false,
        },
    };
    hit && pattern.port.is_none_or(|wanted| wanted == port)
}

/// Compares text with a wildcard without backtracking over more than one `*`.
pub(super) fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(c) if *c == b'?' || text.get(from) == Some(c) => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((back, taken)) => {
                    star = Some((back, taken + 1));
                    at = back + 1;
                    from = taken + 1;
                }
                None => return false,
            },
        }
    }
    glob.get(at..)
        .unwrap_or_default()
        .iter()
        .all(|c| *c == b'*')
}

/// Compiles a regular expression whose size is bounded, because it comes from a file.
fn regex(pattern: &str, case: bool) -> Result<Regex, String> {
    if pattern.len() > 4 * MAX_RULE {
        return Err(format!("it is longer than {MAX_RULE} bytes"));
    }
    let mut builder = RegexBuilder::new(pattern);
    builder.case_insensitive(!case).size_limit(1 << 20);
    builder
        .build()
        .map_err(|_| "it is not a regular expression that can be read".to_owned())
}

/// The regular expression of a wildcard, not anchored.
pub(super) fn regex_of(glob: &str) -> String {
    let mut text = String::new();
    for c in glob.chars() {
        match c {
            '*' => text.push_str(".*"),
            '?' => text.push('.'),
            c if ".+()|[]{}^$\\".contains(c) => text.extend(['\\', c]),
            c => text.push(c),
        }
    }
    text
}

/// The host part of a wildcard.
#[derive(Debug)]
struct Target {
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
    fn of(shape: &str, subject: Subject) -> Result<Self, String> {
        if shape.len() > MAX_RULE {
            return Err(format!("it is longer than {MAX_RULE} bytes"));
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

    fn pattern(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        match self.octets() {
            Some(octets) => {
                let address = address(&octets, [0, 0, 0]);
                format!("{address}/{}{port}", octets.len() * 8)
            }
            None => format!("{}{port}", self.host),
        }
    }

    fn notes(&self, shown: &str) -> Vec<String> {
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
    fn samples(&self) -> Vec<Sample> {
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
            scheme: self
                .scheme
                .unwrap_or(if at % 2 == 0 { "http" } else { "https" }),
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
struct Sample {
    scheme: &'static str,
    host: String,
    port: u16,
    path: &'static str,
}

impl Sample {
    /// The URL as a browser writes it: without the scheme's own port.
    fn url(&self) -> String {
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

#[cfg(test)]
mod tests;
