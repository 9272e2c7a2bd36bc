//! The private keys that a person has unlocked, kept in memory for the life of the daemon, so that a reconnect at night
//! does not have to ask again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use secrecy::{ExposeSecret as _, SecretString};
use tunneld_keys::PrivateKey;

/// Unlocked keys by the SHA-256 digest of their encrypted file: a file that is replaced is a new key. Clones share the
/// keys.
///
/// Holds no key that passphrase_command unlocked, since the command can be run again.
#[derive(Clone, Default)]
pub(crate) struct UnlockedKeys(Arc<Mutex<HashMap<[u8; 32], Arc<PrivateKey>>>>);

impl UnlockedKeys {
    /// The key of this encrypted file. `None` if it was not unlocked yet.
    pub(crate) fn get(&self, encrypted: &SecretString) -> Option<Arc<PrivateKey>> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(&digest_of(encrypted)?).cloned()
    }

    pub(crate) fn insert(&self, encrypted: &SecretString, key: &Arc<PrivateKey>) {
        if let Some(digest) = digest_of(encrypted) {
            let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            keys.insert(digest, Arc::clone(key));
        }
    }
}

fn digest_of(encrypted: &SecretString) -> Option<[u8; 32]> {
    let digest = digest::digest(&digest::SHA256, encrypted.expose_secret().as_bytes());
    digest.as_ref().try_into().ok()
}
