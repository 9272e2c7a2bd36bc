//! Which agents were asked for a signature. OpenSSH's agent answers nothing else while it asks its user about one, so that
//! other tunnels have to wait for it longer.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The signatures that the dials of the daemon wait for, by the path of the agent. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct PendingSignatures(Arc<Mutex<HashMap<String, usize>>>);

/// Counts one signature that an agent was asked for.
pub(super) struct PendingSignature {
    all: PendingSignatures,
    path: String,
}

impl PendingSignatures {
    /// Counts a signature until the guard is dropped.
    pub(super) fn begin(&self, path: &str) -> PendingSignature {
        *self.0.lock().entry(path.to_owned()).or_default() += 1;
        PendingSignature {
            all: self.clone(),
            path: path.to_owned(),
        }
    }

    /// Whether the agent at `path` was asked for a signature that it has not made.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.0.lock().contains_key(path)
    }
}

impl Drop for PendingSignature {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(count) = all.get_mut(&self.path) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.path);
            }
        }
    }
}
