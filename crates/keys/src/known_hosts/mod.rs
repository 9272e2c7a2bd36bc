//! known_hosts, the format of sshd(8), judged as OpenSSH judges it: which lines are about a host, and what they say
//! of a key. Pure: text in, verdicts out. Reading and writing the files is the session's.

mod host_pattern;
mod key;
mod krl;
pub mod presented;
pub mod revoked;
#[cfg(test)]
mod tests;

use aws_lc_rs::{digest, hmac};
use base64ct::{Base64, Encoding as _};

pub use key::{fingerprint, is_whole, key_type};

/// The names under which a host is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name that new lines bear: `host`, `[host]:port` or the alias.
    pub lookup: String,
    /// The host without its port, which may vouch for a key that is unknown under `lookup`.
    bare: Option<String>,
}

impl Name {
    /// The name of a host and port.
    pub fn new(host: &str, port: u16) -> Self {
        let host = host.to_lowercase();
        if port == 22 {
            Self {
                lookup: host,
                bare: None,
            }
        } else {
            Self {
                lookup: format!("[{host}]:{port}"),
                bare: Some(host),
            }
        }
    }

    /// HostKeyAlias: the name as it is, whatever the port.
    pub fn alias(alias: &str) -> Self {
        Self {
            lookup: alias.to_lowercase(),
            bare: None,
        }
    }
}

/// One known_hosts file.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its name, for verdicts.
    pub file: &'a str,
    /// What it holds.
    pub text: &'a [u8],
}

/// Where a line stands, and the fingerprint of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The key's type.
    pub key_type: String,
    /// The key's SHA256 fingerprint.
    pub fingerprint: String,
}

/// What known_hosts says of an offered key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKeyStatus {
    /// It is the host's.
    Known,
    /// Nothing is known of the host.
    Unknown,
    /// Another key is the host's.
    Changed(Location),
    /// The key, or the authority behind it, is revoked.
    Revoked(Location),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    Plain,
    Authority,
    Revoked,
}

#[derive(Debug, Clone)]
struct Line {
    place: Location,
    marker: Marker,
    blob: Vec<u8>,
}

/// The lines of some files that are about one host.
#[derive(Debug, Clone, Default)]
pub struct KnownHost {
    lines: Vec<Line>,
    /// The lines about the bare name of a host with a port of its own.
    bare: Vec<Line>,
}

impl KnownHost {
    /// Gathers what `sources` say of `name`.
    pub fn look_up(sources: &[Source<'_>], name: &Name) -> Self {
        let mut found = Self::default();
        for source in sources {
            for (index, text) in source.text.split(|&byte| byte == b'\n').enumerate() {
                let Some(raw) = raw_line(text) else { continue };
                let bare = name.bare.as_deref();
                let (under_name, under_bare) = (
                    host_pattern::covers(raw.hosts, &name.lookup),
                    bare.is_some_and(|bare| host_pattern::covers(raw.hosts, bare)),
                );
                if !under_name && !under_bare {
                    continue;
                }
                let Some(line) = raw.proved(source.file, index + 1) else {
                    continue;
                };
                if under_bare {
                    found.bare.push(line.clone());
                }
                if under_name {
                    found.lines.push(line);
                }
            }
        }
        found
    }

    /// What is said of the plain key `blob`.
    pub fn judge(&self, blob: &[u8]) -> HostKeyStatus {
        if let Some(place) = revoked(&self.lines, blob) {
            return HostKeyStatus::Revoked(place);
        }
        // As ssh does: what stands under the name itself leaves the bare name unasked.
        match judge_plain(&self.lines, blob) {
            HostKeyStatus::Unknown => match revoked(&self.bare, blob) {
                Some(place) => HostKeyStatus::Revoked(place),
                None if judge_plain(&self.bare, blob) == HostKeyStatus::Known => {
                    HostKeyStatus::Known
                }
                None => HostKeyStatus::Unknown,
            },
            verdict => verdict,
        }
    }

    /// Where a `@revoked` line names `blob`, a key or an authority.
    pub fn revoked(&self, blob: &[u8]) -> Option<Location> {
        revoked(&self.lines, blob).or_else(|| revoked(&self.bare, blob))
    }

    /// Whether any key or authority is revoked for this host.
    pub fn has_revoked(&self) -> bool {
        let mut lines = self.lines.iter().chain(&self.bare);
        lines.any(|line| line.marker == Marker::Revoked)
    }

    /// Whether a `@cert-authority` line trusts `authority` to name this host.
    pub fn trusts_authority(&self, authority: &[u8]) -> bool {
        self.authorities().any(|line| line.blob == authority)
    }

    /// Whether any authority is trusted for this host.
    pub fn has_authority(&self) -> bool {
        self.authorities().next().is_some()
    }

    fn authorities(&self) -> impl Iterator<Item = &Line> {
        self.lines
            .iter()
            .chain(&self.bare)
            .filter(|line| line.marker == Marker::Authority)
    }

    /// The types of the host's plain keys, in the files' order, each once.
    pub fn key_types(&self) -> Vec<String> {
        let of = |lines: &[Line]| {
            let mut types = Vec::new();
            for line in lines {
                if line.marker == Marker::Plain && !types.contains(&line.place.key_type) {
                    types.push(line.place.key_type.clone());
                }
            }
            types
        };
        match of(&self.lines) {
            types if types.is_empty() => of(&self.bare),
            types => types,
        }
    }

    /// Whether the plain key `blob` stands under the name itself, so that it need not be written again.
    pub fn lists(&self, blob: &[u8]) -> bool {
        self.lines
            .iter()
            .any(|line| line.marker == Marker::Plain && line.blob == blob)
    }
}

fn revoked(lines: &[Line], blob: &[u8]) -> Option<Location> {
    let found = lines
        .iter()
        .find(|line| line.marker == Marker::Revoked && line.blob == blob);
    found.map(|line| line.place.clone())
}

fn judge_plain(lines: &[Line], blob: &[u8]) -> HostKeyStatus {
    let mut other = None;
    for line in lines.iter().filter(|line| line.marker == Marker::Plain) {
        if line.blob == blob {
            return HostKeyStatus::Known;
        }
        other = Some(line);
    }
    match other {
        Some(line) => HostKeyStatus::Changed(line.place.clone()),
        None => HostKeyStatus::Unknown,
    }
}

struct RawLine<'a> {
    marker: Marker,
    hosts: &'a str,
    key_type: &'a str,
    key: &'a str,
}

/// The fields of a line; none where OpenSSH would skip it.
fn raw_line(text: &[u8]) -> Option<RawLine<'_>> {
    // Only the comment may be anything but ASCII, and it is of no interest; ssh reads up to the first NUL.
    let end = text.iter().position(|byte| !byte.is_ascii() || *byte == 0);
    let text = std::str::from_utf8(text.get(..end.unwrap_or(text.len()))?).ok()?;
    let text = text.trim_matches(['\r', ' ', '\t']);
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    let (marker, rest) = match text.starts_with('@') {
        true => marked(text)?,
        false => (Marker::Plain, text),
    };
    let mut fields = rest.split([' ', '\t']).filter(|field| !field.is_empty());
    Some(RawLine {
        marker,
        hosts: fields.next()?,
        key_type: fields.next()?,
        key: fields.next()?,
    })
}

/// The marker of a line that begins with `@`, and what follows. To ssh it ends at the line's first space, or at the
/// first tab of a line without any.
fn marked(text: &str) -> Option<(Marker, &str)> {
    let (marker, rest) = text.split_once(' ').or_else(|| text.split_once('\t'))?;
    match marker {
        "@cert-authority" => Some((Marker::Authority, rest)),
        "@revoked" => Some((Marker::Revoked, rest)),
        _ => None,
    }
}

impl RawLine<'_> {
    fn proved(&self, file: &str, line: usize) -> Option<Line> {
        let blob = Base64::decode_vec(self.key.trim_end_matches('\r')).ok()?;
        if !key::is_sound(self.key_type, &blob) {
            return None;
        }
        Some(Line {
            place: Location {
                file: file.to_owned(),
                line,
                key_type: self.key_type.to_owned(),
                fingerprint: fingerprint(&blob),
            },
            marker: self.marker,
            blob,
        })
    }
}

/// The line that makes `blob` known under `name`; hashed with `salt` where there is one (HashKnownHosts).
pub fn new_line(name: &Name, blob: &[u8], salt: Option<[u8; 20]>) -> Option<String> {
    let hosts = match salt {
        None => name.lookup.clone(),
        Some(salt) => {
            let hash = hash_name(&salt, &name.lookup);
            format!(
                "|1|{}|{}",
                Base64::encode_string(&salt),
                Base64::encode_string(hash.as_ref())
            )
        }
    };
    let key_type = key_type(blob)?;
    Some(format!(
        "{hosts} {key_type} {}\n",
        Base64::encode_string(blob)
    ))
}

fn hash_name(salt: &[u8], name: &str) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
    hmac::sign(&key, name.as_bytes())
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}
