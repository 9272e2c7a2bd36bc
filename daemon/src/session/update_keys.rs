//! UpdateHostKeys: further host keys that a trusted server tells of are written down once it has proven that it
//! holds them (OpenSSH PROTOCOL §2.5), so that the host may change its key one day and still be known.

use bytes::Bytes;
use tunneld_ssh::driver::Session;

use super::blob;
use super::known_files;
use crate::config::model::{HostKeys, UpdateHostKeys};
use crate::known_hosts::{self, Name};

/// More keys than this no host has.
const MOST: usize = 32;

/// Where the keys of a host are written down.
pub(super) struct Updates {
    pub(super) host_keys: HostKeys,
    pub(super) name: Name,
    pub(super) tunnel: String,
}

impl Updates {
    /// Whether there is anything to do for a host that was known, or met, by its plain key.
    pub(super) fn wanted(&self) -> bool {
        let wanted = self.host_keys.update == UpdateHostKeys::Yes;
        wanted && !self.host_keys.user_files.is_empty()
    }

    /// Waits for the server's word and heeds it, once.
    pub(super) async fn heed(self, session: Session) {
        let mut told = session.host_keys();
        let keys = tokio::select! {
            told = told.wait_for(|keys| !keys.is_empty()) => match told {
                Ok(keys) => keys.clone(),
                Err(_) => return,
            },
            _ = session.closed() => return,
        };
        let known = match known_files::look_up(&self.host_keys, &self.name, None).await {
            Ok(known) => known,
            Err(failure) => return tracing::warn!(tunnel = self.tunnel, "{failure}"),
        };
        let fresh: Vec<Bytes> = keys
            .into_iter()
            .take(MOST)
            .filter(|key| known_hosts::is_whole(key) && !known.lists(key))
            .filter(|key| known.revoked(key).is_none())
            .collect();
        if fresh.is_empty() {
            return;
        }
        if let Err(error) = session.prove_host_keys(&fresh).await {
            return tracing::warn!(
                tunnel = self.tunnel,
                "further host keys of the server are left out: {error}"
            );
        }
        for key in fresh {
            match known_files::add(&self.host_keys, &self.name, &key).await {
                Ok(()) => tracing::info!(
                    tunnel = self.tunnel,
                    "the host has proven a further key: {} {}",
                    blob::short_type(known_hosts::key_type(&key).unwrap_or_default()),
                    known_hosts::fingerprint(&key)
                ),
                Err(failure) => return tracing::warn!(tunnel = self.tunnel, "{failure}"),
            }
        }
    }
}
