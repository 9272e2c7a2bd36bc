//! RevokedHostKeys: a list of public keys, or one of OpenSSH's binary revocation lists. What cannot be read, in whole or
//! in part, is an error, as for ssh: it might have revoked the key that was asked about.

use base64ct::{Base64, Encoding as _};

use super::key::key_type;
use super::krl;
use super::presented::Presented;

/// Whether the file revokes the key, its certificate or the authority.
///
/// # Errors
/// Where the file is no list, or one that is not understood; in words.
pub fn revokes(file: &[u8], shown: &Presented<'_>) -> Result<bool, String> {
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
