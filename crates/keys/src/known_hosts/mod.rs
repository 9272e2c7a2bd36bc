//! The known_hosts format (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), evaluated exactly as OpenSSH does it: which lines
//! match a host, and whether an offered key is known, changed or revoked. The session reads and writes the files.

mod host_pattern;
mod key;
mod krl;
pub mod presented;
pub mod revoked;
#[cfg(test)]
mod tests;

use aws_lc_rs::{digest, hmac};
use base64ct::{Base64, Encoding as _};

pub use key::{fingerprint, is_complete, key_type};

/// The names under which a host is looked up in known_hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name that new lines get: `host`, `[host]:port` or the HostKeyAlias, in lower case.
    pub lookup: String,
    /// The host without its port; `None` for port 22 and for an alias. A key listed under it is accepted if `lookup`
    /// has no entry, as ssh does it.
    bare: Option<String>,
}

impl Name {
    /// Returns the names of `host` at `port`.
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

    /// Returns the name for a HostKeyAlias (ssh_config(5)), which never includes the port.
    pub fn alias(alias: &str) -> Self {
        Self {
            lookup: alias.to_lowercase(),
            bare: None,
        }
    }
}

/// One known_hosts file, read by the caller.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// File name, for [`Location`] only.
    pub file: &'a str,
    /// The whole content; need not be UTF-8.
    pub text: &'a [u8],
}

/// A line of a known_hosts file and the key in it, for error messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// [`Source::file`] of the file.
    pub file: String,
    /// Line number, from 1.
    pub line: usize,
    /// Key type such as `ssh-ed25519`.
    pub key_type: String,
    /// Fingerprint such as `SHA256:…`.
    pub fingerprint: String,
}

/// Result of the comparison of an offered key with known_hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKeyStatus {
    /// The key is listed for the host.
    Known,
    /// No key is listed for the host.
    Unknown,
    /// Only other keys are listed for the host; the location is the last of them.
    Changed(Location),
    /// A `@revoked` line lists the key or its certificate authority.
    Revoked(Location),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    Plain,
    Authority,
    Revoked,
}

#[derive(Debug, Clone)]
struct KnownHostLine {
    location: Location,
    marker: Marker,
    blob: Vec<u8>,
}

/// The lines that match one host, of all known_hosts files.
///
/// ```
/// use tunneld_keys::known_hosts::{HostKeyStatus, KnownHost, Name, Source, new_line};
///
/// let key = [&[0, 0, 0, 11][..], b"ssh-ed25519", &[0, 0, 0, 32], &[7; 32]].concat();
/// let name = Name::new("host.example", 2222);
/// let line = new_line(&name, &key, None).unwrap();
/// let file = Source { file: "known_hosts", text: line.as_bytes() };
/// assert_eq!(KnownHost::look_up(&[file], &name).judge(&key), HostKeyStatus::Known);
/// ```
#[derive(Debug, Clone, Default)]
pub struct KnownHost {
    lines: Vec<KnownHostLine>,
    /// Lines that match the host name without its port; empty for port 22.
    bare: Vec<KnownHostLine>,
}

impl KnownHost {
    /// Collects the lines of `sources` that match `name`, in order. Lines that OpenSSH skips are skipped.
    pub fn look_up(sources: &[Source<'_>], name: &Name) -> Self {
        let mut found = Self::default();
        for source in sources {
            for (index, text) in source.text.split(|&byte| byte == b'\n').enumerate() {
                let Some(raw) = raw_line(text) else { continue };
                let bare = name.bare.as_deref();
                let (matches_name, matches_bare) = (
                    host_pattern::covers(raw.hosts, &name.lookup),
                    bare.is_some_and(|bare| host_pattern::covers(raw.hosts, bare)),
                );
                if !matches_name && !matches_bare {
                    continue;
                }
                let Some(line) = raw.validate(source.file, index + 1) else {
                    continue;
                };
                if matches_bare {
                    found.bare.push(line.clone());
                }
                if matches_name {
                    found.lines.push(line);
                }
            }
        }
        found
    }

    /// Returns the status of the plain key `blob` (not a certificate).
    pub fn judge(&self, blob: &[u8]) -> HostKeyStatus {
        if let Some(location) = revoked(&self.lines, blob) {
            return HostKeyStatus::Revoked(location);
        }
        // As ssh does it: the bare name counts only if nothing is listed under the full name.
        match judge_plain(&self.lines, blob) {
            HostKeyStatus::Unknown => match revoked(&self.bare, blob) {
                Some(location) => HostKeyStatus::Revoked(location),
                None if judge_plain(&self.bare, blob) == HostKeyStatus::Known => {
                    HostKeyStatus::Known
                }
                None => HostKeyStatus::Unknown,
            },
            status => status,
        }
    }

    /// Returns the `@revoked` line that lists `blob`, a key or a certificate authority; `None` if there is none.
    pub fn revoked(&self, blob: &[u8]) -> Option<Location> {
        revoked(&self.lines, blob).or_else(|| revoked(&self.bare, blob))
    }

    /// Returns whether any `@revoked` line matches this host.
    pub fn has_revoked(&self) -> bool {
        let mut lines = self.lines.iter().chain(&self.bare);
        lines.any(|line| line.marker == Marker::Revoked)
    }

    /// Returns whether a `@cert-authority` line for this host lists the key `authority`.
    pub fn trusts_authority(&self, authority: &[u8]) -> bool {
        self.authorities().any(|line| line.blob == authority)
    }

    /// Returns whether any `@cert-authority` line matches this host.
    pub fn has_authority(&self) -> bool {
        self.authorities().next().is_some()
    }

    fn authorities(&self) -> impl Iterator<Item = &KnownHostLine> {
        self.lines
            .iter()
            .chain(&self.bare)
            .filter(|line| line.marker == Marker::Authority)
    }

    /// Returns the types of the listed plain keys in file order, each once. The handshake offers these algorithms first,
    /// so that a server with several keys shows one that can be verified.
    pub fn key_types(&self) -> Vec<String> {
        let of = |lines: &[KnownHostLine]| {
            let mut types = Vec::new();
            for line in lines {
                if line.marker == Marker::Plain && !types.contains(&line.location.key_type) {
                    types.push(line.location.key_type.clone());
                }
            }
            types
        };
        match of(&self.lines) {
            types if types.is_empty() => of(&self.bare),
            types => types,
        }
    }

    /// Returns how many plain keys are listed under the full name.
    pub fn key_count(&self) -> usize {
        let plain = |line: &&KnownHostLine| line.marker == Marker::Plain;
        self.lines.iter().filter(plain).count()
    }

    /// Returns whether the plain key `blob` is listed under the full name, so that it is not written again.
    pub fn lists(&self, blob: &[u8]) -> bool {
        self.lines
            .iter()
            .any(|line| line.marker == Marker::Plain && line.blob == blob)
    }
}

fn revoked(lines: &[KnownHostLine], blob: &[u8]) -> Option<Location> {
    let found = lines
        .iter()
        .find(|line| line.marker == Marker::Revoked && line.blob == blob);
    found.map(|line| line.location.clone())
}

fn judge_plain(lines: &[KnownHostLine], blob: &[u8]) -> HostKeyStatus {
    let mut other = None;
    for line in lines.iter().filter(|line| line.marker == Marker::Plain) {
        if line.blob == blob {
            return HostKeyStatus::Known;
        }
        other = Some(line);
    }
    match other {
        Some(line) => HostKeyStatus::Changed(line.location.clone()),
        None => HostKeyStatus::Unknown,
    }
}

struct RawLine<'a> {
    marker: Marker,
    hosts: &'a str,
    key_type: &'a str,
    key: &'a str,
}

/// Splits a line into its fields. `None` for a line that OpenSSH skips.
fn raw_line(text: &[u8]) -> Option<RawLine<'_>> {
    // Only the comment can contain non-ASCII bytes, and it is not used. ssh reads C strings: a NUL ends the line.
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

/// Splits a line that starts with `@` after its marker. `None` for an unknown marker, which OpenSSH skips.
fn marked(text: &str) -> Option<(Marker, &str)> {
    // ssh ends the marker at the first space of the line, and only without any space at the first tab.
    let (marker, rest) = text.split_once(' ').or_else(|| text.split_once('\t'))?;
    match marker {
        "@cert-authority" => Some((Marker::Authority, rest)),
        "@revoked" => Some((Marker::Revoked, rest)),
        _ => None,
    }
}

impl RawLine<'_> {
    fn validate(&self, file: &str, line: usize) -> Option<KnownHostLine> {
        let blob = Base64::decode_vec(self.key.trim_end_matches('\r')).ok()?;
        if !key::is_valid(self.key_type, &blob) {
            return None;
        }
        Some(KnownHostLine {
            location: Location {
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

/// Returns the line, with its line feed, that lists the key `blob` under `name`. With `salt`, the name is hashed
/// (HashKnownHosts). `None` if `blob` does not start with a key type.
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
