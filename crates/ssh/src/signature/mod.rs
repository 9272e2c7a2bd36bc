//! Verification of host keys, their signatures and their certificates.

mod certificate;
mod key;

pub use certificate::{Certificate, CertificateError};
pub use key::SignatureError;

pub(crate) use key::plain_type;

use crate::wire::Reader;
use key::{KeyFields, key_type};

/// Verifies that the key blob `key` signed `message` with `algorithm`, which is the name of a plain algorithm. An RSA key
/// must have `min_rsa_bits`; `None` for 2048 with SHA-2 and 1024 with `ssh-rsa`.
pub(crate) fn verify(
    algorithm: &str,
    key: &[u8],
    signature: &[u8],
    message: &[u8],
    min_rsa_bits: Option<usize>,
) -> Result<(), SignatureError> {
    let mut reader = Reader::new(key);
    let name = reader.utf8()?;
    // The server chooses the blob: without this check it could present a key of a type that was not negotiated.
    if name != key_type(algorithm) {
        return Err(SignatureError::KeyType(name.chars().take(64).collect()));
    }
    let key = KeyFields::read(name, &mut reader)?;
    reader.end()?;
    key.verify(algorithm, signature, message, min_rsa_bits)
}

#[cfg(test)]
mod tests;
