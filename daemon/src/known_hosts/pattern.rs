//! The host field of a known_hosts line: hashed, or a list of patterns.

use base64ct::{Base64, Encoding as _};
use ring::hmac;

use tunneld_ssh::pattern::{self, PatternMatch};

/// Whether the field is about `name`, which is in lower case.
pub(super) fn covers(field: &str, name: &str) -> bool {
    match field.strip_prefix('|') {
        Some(hashed) => hash_covers(hashed, name).unwrap_or(false),
        None => pattern::match_list(name, field) == PatternMatch::Matched,
    }
}

fn hash_covers(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.strip_prefix("1|")?.split_once('|')?;
    let salt = Base64::decode_vec(salt).ok()?;
    let hash = Base64::decode_vec(hash).ok()?;
    if salt.len() != 20 {
        return None;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    Some(hmac::verify(&key, name.as_bytes(), &hash).is_ok())
}
