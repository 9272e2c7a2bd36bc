//! The text of a key file, whatever its format: what it tells before it is opened, and the opening.

pub use ssh_key::PrivateKey;
use ssh_key::encoding::Encode as _;
use zeroize::Zeroizing;

use crate::error::DecryptError;
use crate::openssh;
use crate::pem::Pem;
use crate::putty::{self, Ppk};
use crate::wire;

/// What a file tells without a passphrase.
pub struct KeyInfo {
    /// The public key as it goes on the wire; `None` if only decryption reveals it.
    pub public: Option<Vec<u8>>,
    /// None where it needs a passphrase.
    pub key: Option<PrivateKey>,
}

/// Looks at a file; an error where no passphrase would make a key of it.
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

/// Opens a key that needs a passphrase. It takes its time.
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

/// Whether a public key is one of a security key, which its file alone cannot sign with.
pub fn is_of_token(public: &[u8]) -> bool {
    wire::name(public).is_some_and(|name| name.starts_with("sk-"))
}

/// The public half as it goes on the wire.
pub fn public_bytes(key: &PrivateKey) -> Option<Vec<u8>> {
    key.public_key().to_bytes().ok()
}

/// The private key as an agent receives it (draft-ietf-sshm-ssh-agent §3.2): type and numbers. `None` if it is
/// encrypted.
pub fn agent_encoding(key: &PrivateKey) -> Option<Zeroizing<Vec<u8>>> {
    let mut encoded = Zeroizing::new(Vec::with_capacity(4096));
    key.key_data().encode(&mut *encoded).ok()?;
    Some(encoded)
}
