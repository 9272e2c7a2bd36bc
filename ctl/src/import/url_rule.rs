//! A rule of a browser's proxy switcher as entries of `proxy_for`. Old rules match URLs, `proxy_for` matches hosts, so each
//! translation is tried: a rule is carried over only if sample URLs get the same answer from both.

use std::net::{IpAddr, Ipv4Addr};

use regex_lite::{Regex, RegexBuilder};
use tunneld_toml::proxy_for::{self, Hosts, ProxyPattern};

use super::host_regex;
use super::rule_subject::{MAX_RULE, Subject};
use super::url_samples::{Sample, Target};

/// A rule with its old meaning.
#[derive(Debug)]
pub(super) struct UrlRule {
    // As it is in the file.
    shown: String,
    subject: Subject,
    matcher: Regex,
    // Wildcards of URLs or hosts that together mean the same.
    shapes: Vec<String>,
    // `http` or `https`, if the rule is for one of them and its text does not say so.
    only: Option<&'static str>,
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
            only: None,
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
            only: None,
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
            only: None,
        })
    }

    /// Marks a rule that is for one scheme alone.
    pub(super) fn only(mut self, scheme: &'static str) -> Self {
        self.only = Some(scheme);
        self
    }

    /// Translates the rule.
    ///
    /// # Errors
    /// Why it cannot be carried over.
    pub(super) fn translate(&self) -> Result<Translation, String> {
        let mut notes = Vec::new();
        if let Some(scheme) = self.only {
            notes.push(format!(
                "{} was for {scheme} alone: proxy_for is for http and https",
                self.shown
            ));
        }
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

#[cfg(test)]
mod tests;
