//! RevokedHostKeys: a list of public keys, or one of OpenSSH's binary revocation lists. What cannot be read, in whole or
//! in part, is an error, as for ssh: it might have revoked the key that was asked about.

use base64ct::{Base64, Encoding as _};

use super::key::key_type;
use super::krl;

/// What a host has shown.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// Its plain key.
    pub plain: &'a [u8],
    /// Who has certified that, where somebody has.
    pub certified: Option<Certified<'a>>,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Certified<'a> {
    /// The authority's key.
    pub authority: &'a [u8],
    /// The serial number; 0 for none.
    pub serial: u64,
    /// The authority's name for it.
    pub key_id: &'a [u8],
}

/// Whether the file revokes the key, its certificate or the authority.
///
/// # Errors
/// Where the file is no list, or one that is not understood; in words.
pub fn revokes(file: &[u8], shown: &Shown<'_>) -> Result<bool, String> {
    if krl::is_krl(file) {
        return krl::revokes(file, shown).map_err(|error| error.to_string());
    }
    let authority = shown.certified.map(|by| by.authority);
    let mut found = false;
    for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let listed = listed(line).ok_or_else(|| format!("line {} is no public key", index + 1))?;
        found |= listed == shown.plain || Some(&listed[..]) == authority;
    }
    Ok(found)
}

/// The plain key of a line.
fn listed(line: &[u8]) -> Option<Vec<u8>> {
    let mut fields = line
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    let (kind, key) = (fields.next()?, fields.next()?);
    let key = Base64::decode_vec(std::str::from_utf8(key).ok()?).ok()?;
    (key_type(&key)?.as_bytes() == kind).then_some(key)
}
