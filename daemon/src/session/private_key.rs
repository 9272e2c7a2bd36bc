//! The text of a key file, whatever its format: what it tells before it is opened, and the opening.

use russh::keys::{PrivateKey, PublicKeyBase64 as _};

use crate::session::blob;
use crate::session::openssh_key;
use crate::session::pem::Pem;
use crate::session::ppk::{self, Ppk};

/// No server of today takes them, and no library of ours.
pub(super) const NO_DSA: &str =
    "DSA keys are not supported, by servers neither (`ssh-keygen -t ed25519` makes a new one)";

/// What a file tells without a passphrase.
pub(super) struct KeyInfo {
    pub(super) public: Option<Vec<u8>>,
    /// None where it needs a passphrase.
    pub(super) key: Option<PrivateKey>,
}

/// Why a key was not opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecryptError {
    /// Another passphrase may open it.
    #[error("the passphrase is wrong")]
    Wrong,
    /// No passphrase will.
    #[error("{0}")]
    Why(String),
}

/// Looks at a file; an error where no passphrase would make a key of it.
pub(super) fn look(text: &str) -> Result<KeyInfo, String> {
    let why = |unopened: DecryptError| unopened.to_string();
    if ppk::is_ppk(text) {
        let ppk = Ppk::read(text)?;
        let public = Some(ppk.public().to_vec());
        let key = (!ppk.is_locked()).then(|| ppk.open("")).transpose();
        return Ok(KeyInfo {
            public,
            key: key.map_err(why)?,
        });
    }
    if openssh_key::is_openssh(text) {
        return openssh_key::look(text);
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
        public: Some(key.public_key_bytes()),
        key: Some(key),
    })
}

/// Opens a key that needs a passphrase. It takes its time.
pub(super) fn open(text: &str, passphrase: &str) -> Result<PrivateKey, DecryptError> {
    if ppk::is_ppk(text) {
        return Ppk::read(text).map_err(DecryptError::Why)?.open(passphrase);
    }
    if openssh_key::is_openssh(text) {
        return openssh_key::open(text, passphrase);
    }
    Pem::read(text).map_err(DecryptError::Why)?.open(passphrase)
}

/// Whether a public key is one of a security key, which its file alone cannot sign with.
pub(super) fn is_of_token(public: &[u8]) -> bool {
    blob::name(public).is_some_and(|name| name.starts_with("sk-"))
}

/// A file that is no key of the format it claims.
pub(super) fn damaged(why: &str) -> String {
    format!("the file is damaged: {why}")
}
