//! Private keys in OpenSSH's format (PROTOCOL.key). ssh-key reads them, except ECDSA keys whose private number is
//! shorter than the field, which one key in 256 has: this module reads those and pads the number.

use base64ct::{Base64, Encoding as _};
use ssh_key::encoding::Decode as _;
use ssh_key::private::KeypairData;
use ssh_key::{Algorithm, Cipher, Kdf, PrivateKey};
use tunneld_proto::text;
use zeroize::Zeroizing;

use crate::error::{DecryptError, NO_DSA, corrupt};
use crate::key_info::{KeyInfo, public_bytes};
use crate::wire::{self, KeyKind, Reader, put_ecdsa, put_string};

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Most bcrypt rounds that a file may demand. ssh-keygen writes 16 or 24; each takes some milliseconds.
const ROUNDS_LIMIT: u32 = 10_000;

/// Returns whether the text contains an OpenSSH private key.
pub(crate) fn is_openssh(text: &str) -> bool {
    text.contains(BEGIN)
}

/// Reads a key without decrypting it.
///
/// # Errors
/// A text that says why no passphrase makes a usable key of the file.
pub(crate) fn inspect(text: &str) -> Result<KeyInfo, String> {
    let content = unarmoured(text).ok_or_else(|| corrupt("it is not whole, or not base64"))?;
    let mut rest = Reader(content.strip_prefix(MAGIC).unwrap_or_default());
    let cipher = rest.string().unwrap_or_default();
    if std::str::from_utf8(cipher).is_ok_and(|name| Cipher::new(name).is_err()) {
        let cipher = text::escape(&String::from_utf8_lossy(cipher));
        return Err(format!("its encryption, {cipher}, is not supported"));
    }
    let foreign = || corrupt("it does not hold what its first line says");
    let key = PrivateKey::from_bytes(&content)
        .ok()
        .or_else(|| read_ecdsa(&content, None))
        .ok_or_else(foreign)?;
    if key.algorithm() == Algorithm::Dsa {
        return Err(NO_DSA.into());
    }
    check_rounds(key.kdf())?;
    Ok(KeyInfo {
        public: public_bytes(&key),
        key: (!key.is_encrypted()).then_some(key),
    })
}

/// Checks how much work it would be to unlock the key.
fn check_rounds(kdf: &Kdf) -> Result<(), String> {
    match kdf {
        Kdf::Bcrypt { rounds, .. } if *rounds > ROUNDS_LIMIT => Err(format!(
            "unlocking it would take {rounds} rounds of bcrypt, which is more than tunneld spends on a key \
             (`ssh-keygen -p -a 100 -f FILE` rewrites it)"
        )),
        _ => Ok(()),
    }
}

/// Decrypts a key. Runs bcrypt once.
pub(crate) fn decrypt(text: &str, passphrase: &str) -> Result<PrivateKey, DecryptError> {
    let gone = || DecryptError::Unusable(corrupt("it is not whole, or not base64"));
    let content = unarmoured(text).ok_or_else(gone)?;
    // Here too: a caller may not have inspected this content.
    let kdf = kdf_of(&content);
    kdf.map_or(Ok(()), |kdf| check_rounds(&kdf))
        .map_err(DecryptError::Unusable)?;
    let opened = PrivateKey::from_bytes(&content).and_then(|key| key.decrypt(passphrase));
    match opened {
        Ok(key) => Ok(key),
        // A wrong passphrase is another error, so bcrypt does not run twice for it.
        Err(ssh_key::Error::Encoding(_)) => read_ecdsa(&content, Some(passphrase))
            .ok_or_else(|| DecryptError::Unusable(corrupt("its private part cannot be read"))),
        Err(_) => Err(DecryptError::WrongPassphrase),
    }
}

/// The key derivation in the head of a key. `None` if the head is damaged.
fn kdf_of(content: &[u8]) -> Option<Kdf> {
    let mut rest = Reader(content.strip_prefix(MAGIC)?);
    rest.string()?;
    Kdf::decode(&mut rest.0).ok()
}

fn read_ecdsa(content: &[u8], passphrase: Option<&str>) -> Option<PrivateKey> {
    let mut rest = Reader(content.strip_prefix(MAGIC)?);
    let cipher = Cipher::new(std::str::from_utf8(rest.string()?).ok()?).ok()?;
    let kdf = Kdf::decode(&mut rest.0).ok()?;
    if rest.u32()? != 1 {
        return None;
    }
    let public = rest.string()?;
    let mut private = Zeroizing::new(rest.string()?.to_vec());
    if !private.len().is_multiple_of(cipher.block_size()) {
        return None;
    }
    match cipher {
        Cipher::None if kdf.is_none() => {}
        _ => {
            let (key, iv) = kdf.derive_key_and_iv(cipher, passphrase?).ok()?;
            let iv = Zeroizing::new(iv);
            let tag = match rest.0.split_first_chunk::<16>() {
                Some((tag, after)) if cipher.has_tag() => {
                    rest.0 = after;
                    Some((*tag).into())
                }
                _ => None,
            };
            cipher.decrypt(&key, &iv, &mut private, tag).ok()?;
        }
    }
    rest.0.is_empty().then_some(())?;
    pair(public, &private)
}

/// Decodes the decrypted private section of an ECDSA key. `None` if it is damaged or of another type.
fn pair(public: &[u8], private: &[u8]) -> Option<PrivateKey> {
    let mut private = Reader(private);
    if private.u32()? != private.u32()? {
        return None;
    }
    // The private section of an ECDSA key repeats the public key: type, curve and point.
    let mut private = Reader(private.0.strip_prefix(public)?);
    let Ok(KeyKind::Ecdsa(size)) = KeyKind::of(wire::name(public)?) else {
        return None;
    };
    let mut numbers = Reader(public);
    let mut wire = Zeroizing::new(Vec::with_capacity(public.len() + 4 + size));
    put_string(&mut wire, numbers.string()?);
    put_ecdsa(&mut wire, &mut numbers, &mut private, size)?;
    numbers.0.is_empty().then_some(())?;
    let comment = private.string()?;
    let padding = private.0.iter().copied();
    if !padding.eq((1..=u8::MAX).take(private.0.len())) {
        return None;
    }
    let data = KeypairData::decode(&mut wire.as_slice()).ok()?;
    PrivateKey::new(data, comment).ok()
}

fn unarmoured(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, rest) = text.split_once(BEGIN)?;
    let (base64, _) = rest.split_once(END)?;
    // Reserved at once: a reallocation would leave a copy of the key that is not zeroed.
    let mut joined = Zeroizing::new(String::with_capacity(base64.len()));
    joined.extend(base64.split_ascii_whitespace());
    Base64::decode_vec(&joined).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests;
