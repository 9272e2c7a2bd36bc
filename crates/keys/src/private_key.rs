//! Private key files of every supported format: what is readable without the passphrase, and decryption. This module
//! only recognises the format; `openssh`, `pem` and `putty` read it.

pub use ssh_key::PrivateKey;
use ssh_key::encoding::Encode as _;
use zeroize::Zeroizing;

use crate::error::DecryptError;
pub use crate::key_info::{KeyInfo, public_bytes};
use crate::openssh;
use crate::pem::Pem;
use crate::putty::{self, Ppk};
use crate::wire;

/// Reads a key file without decrypting it.
///
/// # Errors
/// A text that says why no passphrase makes a usable key of the file.
pub fn inspect(text: &str) -> Result<KeyInfo, String> {
    let why = |unopened: DecryptError| unopened.to_string();
    if putty::is_ppk(text) {
        let ppk = Ppk::read(text)?;
        let public = Some(ppk.public().to_vec());
        let key = (!ppk.is_locked()).then(|| ppk.open("")).transpose();
        return Ok(KeyInfo {
            public,
            key: key.map_err(why)?,
        });
    }
    if openssh::is_openssh(text) {
        return openssh::inspect(text);
    }
    let pem = Pem::read(text)?;
    if pem.is_locked() {
        return Ok(KeyInfo {
            public: None,
            key: None,
        });
    }
    let key = pem.open("").map_err(why)?;
    Ok(KeyInfo {
        public: public_bytes(&key),
        key: Some(key),
    })
}

/// Decrypts a key file. Blocks for up to seconds: bcrypt, scrypt and Argon2 are slow on purpose.
///
/// # Errors
/// See [`DecryptError`].
pub fn decrypt(text: &str, passphrase: &str) -> Result<PrivateKey, DecryptError> {
    if putty::is_ppk(text) {
        return Ppk::read(text)
            .map_err(DecryptError::Unusable)?
            .open(passphrase);
    }
    if openssh::is_openssh(text) {
        return openssh::decrypt(text, passphrase);
    }
    Pem::read(text)
        .map_err(DecryptError::Unusable)?
        .open(passphrase)
}

/// Returns whether `public` belongs to a FIDO security key. Its file cannot sign: the token is needed, through an agent.
pub fn is_security_key(public: &[u8]) -> bool {
    wire::name(public).is_some_and(|name| name.starts_with("sk-"))
}

/// The private key as an agent receives it (draft-ietf-sshm-ssh-agent §3.2): type and numbers. `None` if it is
/// encrypted.
pub fn agent_encoding(key: &PrivateKey) -> Option<Zeroizing<Vec<u8>>> {
    let mut encoded = Zeroizing::new(Vec::with_capacity(4096));
    key.key_data().encode(&mut *encoded).ok()?;
    Some(encoded)
}
