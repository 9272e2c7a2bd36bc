//! RevokedHostKeys files (ssh_config(5)): a list of public keys, or a binary revocation list. A file that cannot be
//! understood completely is an error, as in ssh, because the unreadable part might revoke the key.

use base64ct::{Base64, Encoding as _};

use super::key::key_type;
use super::krl;
use super::presented::Presented;

/// Returns whether the file revokes the presented key, its certificate or its certificate authority.
///
/// # Errors
/// A text that says why the file is not a usable list. The caller must then treat every key as revoked.
pub fn revokes(file: &[u8], presented: &Presented<'_>) -> Result<bool, String> {
    if krl::is_krl(file) {
        return krl::revokes(file, presented).map_err(|error| error.to_string());
    }
    let authority = presented.certified.map(|by| by.authority);
    let mut found = false;
    for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let listed =
            listed(line).ok_or_else(|| format!("line {} is not a public key", index + 1))?;
        found |= listed == presented.plain || Some(&listed[..]) == authority;
    }
    Ok(found)
}

/// Returns the key of a line. `None` if the line is not a public key.
fn listed(line: &[u8]) -> Option<Vec<u8>> {
    let mut fields = line
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    let (kind, key) = (fields.next()?, fields.next()?);
    let key = Base64::decode_vec(std::str::from_utf8(key).ok()?).ok()?;
    (key_type(&key)?.as_bytes() == kind).then_some(key)
}
