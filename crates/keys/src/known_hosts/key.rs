//! Public keys in wire format (RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4): type, completeness, fingerprint.

use base64ct::{Base64Unpadded, Encoding as _};
use tunneld_ssh::wire::Reader;

/// Returns the SHA-256 fingerprint of a key as ssh prints it: `SHA256:` and unpadded base64.
pub fn fingerprint(blob: &[u8]) -> String {
    let digest = super::sha256(blob);
    format!("SHA256:{}", Base64Unpadded::encode_string(digest.as_ref()))
}

/// Returns the type at the start of a key. `None` if it is missing or contains other than printable ASCII.
pub fn key_type(blob: &[u8]) -> Option<&str> {
    let (name, _) = string(blob)?;
    std::str::from_utf8(name)
        .ok()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// Returns whether `blob` is a complete key of the type at its start.
pub fn is_complete(blob: &[u8]) -> bool {
    key_type(blob).is_some_and(|named| is_valid(named, blob))
}

/// Returns whether `blob` is a complete key of type `named`. OpenSSH skips known_hosts lines that are not.
pub(crate) fn is_valid(named: &str, blob: &[u8]) -> bool {
    body_is_valid(named, blob).unwrap_or(false)
}

fn body_is_valid(named: &str, blob: &[u8]) -> Option<bool> {
    let (name, body) = string(blob)?;
    if name != named.as_bytes() {
        return Some(false);
    }
    Some(match named {
        "ssh-ed25519" => {
            let (point, rest) = string(body)?;
            point.len() == 32 && rest.is_empty()
        }
        "sk-ssh-ed25519@openssh.com" => {
            let (point, rest) = string(body)?;
            point.len() == 32 && string(rest)?.1.is_empty()
        }
        "ssh-rsa" => {
            let (exponent, rest) = string(body)?;
            let (modulus, rest) = string(rest)?;
            !exponent.is_empty() && modulus.len() >= 128 && rest.is_empty()
        }
        "ssh-dss" => {
            let mut rest = body;
            for _ in 0..4 {
                rest = string(rest)?.1;
            }
            rest.is_empty()
        }
        "ecdsa-sha2-nistp256" => is_point(body, b"nistp256", 65)?.is_empty(),
        "ecdsa-sha2-nistp384" => is_point(body, b"nistp384", 97)?.is_empty(),
        "ecdsa-sha2-nistp521" => is_point(body, b"nistp521", 133)?.is_empty(),
        "sk-ecdsa-sha2-nistp256@openssh.com" => {
            string(is_point(body, b"nistp256", 65)?)?.1.is_empty()
        }
        _ => false,
    })
}

fn is_point<'a>(body: &'a [u8], curve: &[u8], len: usize) -> Option<&'a [u8]> {
    let (name, rest) = string(body)?;
    let (point, rest) = string(rest)?;
    (name == curve && point.len() == len && point.first() == Some(&4)).then_some(rest)
}

/// Splits off the string at the start of `bytes` (RFC 4251 §5). `None` if it is truncated.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(bytes);
    let string = reader.string().ok()?;
    Some((string, reader.rest()))
}
