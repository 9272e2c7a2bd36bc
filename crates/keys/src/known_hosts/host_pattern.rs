//! The host field of a known_hosts line: one hashed name (HashKnownHosts) or a list of patterns.

use aws_lc_rs::hmac;
use base64ct::{Base64, Encoding as _};

use tunneld_ssh::pattern::{PatternMatch, match_list};

/// Returns whether the host field matches `name`, which must be in lower case.
pub(crate) fn covers(field: &str, name: &str) -> bool {
    match field.strip_prefix('|') {
        Some(hashed) => hash_covers(hashed, name).unwrap_or(false),
        None => match_list(name, field) == PatternMatch::Matched,
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
