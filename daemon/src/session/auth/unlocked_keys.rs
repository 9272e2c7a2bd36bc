//! Unlocks encrypted private keys, one derivation a key at a time, and keeps the unlocked ones in memory.
//!
//! bcrypt, scrypt and Argon2 are slow on purpose and cannot be interrupted. A derivation therefore outlives the dial that
//! began it, and its result serves the next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Notify;
use tokio::time::Instant;
use tunneld_keys::{DecryptError, PrivateKey};

/// How long the result of a derivation serves the same passphrase again: as long as a typed answer serves other tunnels.
const RESULT_MAX_AGE: Duration = Duration::from_secs(30);

/// How long an unlocked key is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// For the life of the daemon, so that a reconnect at night does not have to ask the person again.
    UntilExit,
    /// For [`RESULT_MAX_AGE`], and only for the same passphrase: passphrase_command is run again for each login.
    Briefly,
}

/// SHA-256 of an encrypted file, so that a file that is replaced is a new key; or of a file and a passphrase.
type Digest = [u8; 32];

/// The unlocked keys. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct UnlockedKeys(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// By encrypted file, the keys that a person has unlocked.
    kept: Mutex<HashMap<Digest, Arc<PrivateKey>>>,
    /// By file and passphrase, the results of the last derivations and when they were found.
    results: Mutex<HashMap<Digest, (Instant, Arc<PrivateKey>)>>,
    /// By encrypted file, what the derivation that runs holds locked.
    running: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    results_changed: Notify,
}

impl UnlockedKeys {
    /// The key of this encrypted file, after the derivation that runs for it, if there is one. `None` if no person has
    /// unlocked it yet.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn get(&self, encrypted: &SecretString) -> Option<Arc<PrivateKey>> {
        let file = digest_of(&[encrypted]);
        let running = self.0.running.lock().get(&file).cloned();
        if let Some(running) = running {
            drop(running.lock().await);
        }
        self.0.kept.lock().get(&file).cloned()
    }

    /// Calls `decrypt` for the file and the passphrase on a thread of its own, after the derivation that runs for the same
    /// file.
    ///
    /// # Errors
    /// See [`DecryptError`].
    ///
    /// # Cancel safety
    /// The derivation continues without the caller, and its result is kept.
    pub(crate) async fn unlock(
        &self,
        encrypted: &SecretString,
        passphrase: SecretString,
        keep: Keep,
        decrypt: fn(&str, &str) -> Result<PrivateKey, DecryptError>,
    ) -> Result<Arc<PrivateKey>, DecryptError> {
        let file = digest_of(&[encrypted]);
        let question = digest_of(&[encrypted, &passphrase]);
        let running = Arc::clone(self.0.running.lock().entry(file).or_default());
        let guard = running.lock_owned().await;
        let known = self.0.results.lock().get(&question).cloned();
        if let Some((_, key)) = known {
            self.keep(file, &key, keep);
            return Ok(key);
        }
        let (keys, encrypted) = (self.clone(), encrypted.clone());
        let derived = tokio::task::spawn_blocking(move || {
            let opened = decrypt(encrypted.expose_secret(), passphrase.expose_secret());
            let opened = opened.map(Arc::new);
            if let Ok(key) = &opened {
                let result = (Instant::now(), Arc::clone(key));
                keys.0.results.lock().insert(question, result);
                keys.0.results_changed.notify_one();
                keys.keep(file, key, keep);
            }
            // Only now, so that whoever waits finds the result.
            drop(guard);
            opened
        });
        let panicked = |_| Err(DecryptError::Unusable("decrypting it failed".into()));
        derived.await.unwrap_or_else(panicked)
    }

    fn keep(&self, file: Digest, key: &Arc<PrivateKey>, keep: Keep) {
        if keep == Keep::UntilExit {
            self.0.kept.lock().insert(file, Arc::clone(key));
        }
    }

    /// Drops results that are too old, which wipes them from memory. Never returns.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn wipe_old_results(&self) {
        loop {
            let oldest = self.0.results.lock().values().map(|(at, _)| *at).min();
            match oldest {
                Some(at) => tokio::time::sleep_until(at + RESULT_MAX_AGE).await,
                None => self.0.results_changed.notified().await,
            }
            let mut results = self.0.results.lock();
            results.retain(|_, (at, _)| at.elapsed() < RESULT_MAX_AGE);
            drop(results);
            let mut running = self.0.running.lock();
            running.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
    }
}

fn digest_of(parts: &[&SecretString]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        let part = part.expose_secret().as_bytes();
        // With its length, so that the border between the parts counts.
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut found = Digest::default();
    let digest = context.finish();
    found
        .iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    found
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    static CALLS: AtomicUsize = AtomicUsize::new(0);

    fn counting(text: &str, _passphrase: &str) -> Result<PrivateKey, DecryptError> {
        CALLS.fetch_add(1, Ordering::SeqCst);
        let key = tunneld_keys::private_key::inspect(text).map_err(DecryptError::Unusable)?;
        key.key.ok_or(DecryptError::WrongPassphrase)
    }

    fn key_text() -> SecretString {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut keygen = std::process::Command::new("ssh-keygen");
        keygen
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&path);
        assert!(keygen.status().unwrap().success());
        std::fs::read_to_string(path).unwrap().into()
    }

    #[tokio::test]
    async fn a_derivation_whose_dial_has_ended_serves_the_next_one() {
        let (keys, file) = (UnlockedKeys::default(), key_text());
        let unlock = |passphrase: &str| {
            let keys = keys.clone();
            let (file, passphrase) = (file.clone(), passphrase.to_owned().into());
            async move {
                keys.unlock(&file, passphrase, Keep::Briefly, counting)
                    .await
            }
        };
        // Begins the derivation and is dropped.
        assert!(unlock("a").now_or_never().is_none());
        assert!(unlock("a").await.is_ok());
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
        assert!(unlock("b").await.is_ok());
        assert_eq!(CALLS.load(Ordering::SeqCst), 2, "another passphrase");
        assert!(keys.get(&file).await.is_none(), "no person has unlocked it");
    }

    #[tokio::test(start_paused = true)]
    async fn results_are_wiped_when_they_are_too_old() {
        let (keys, file) = (UnlockedKeys::default(), key_text());
        let unlocked = keys.unlock(&file, "a".to_owned().into(), Keep::Briefly, |text, _| {
            let key = tunneld_keys::private_key::inspect(text).map_err(DecryptError::Unusable)?;
            key.key.ok_or(DecryptError::WrongPassphrase)
        });
        drop(unlocked.await.unwrap());
        assert_eq!(keys.0.results.lock().len(), 1);
        let wiping = tokio::time::timeout(RESULT_MAX_AGE * 2, keys.wipe_old_results());
        assert!(wiping.await.is_err());
        assert!(keys.0.results.lock().is_empty());
    }
}
