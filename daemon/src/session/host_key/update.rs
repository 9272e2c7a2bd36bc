//! UpdateHostKeys: further host keys that a trusted server tells of are written down once it has proven that it
//! holds them (OpenSSH PROTOCOL §2.5), so that the host may change its key one day and still be known.

use bytes::Bytes;
use secrecy::ExposeSecret as _;
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_ssh::driver::Session;

use crate::known_hosts::{self, Name};
use crate::prompt::{PromptRequest, PromptSender};
use crate::session::blob;
use crate::session::host_key::known_hosts_files;
use tunneld_config::model::{HostKeys, UpdateHostKeys};

/// More keys than this no host has.
const MOST: usize = 32;

/// Where the keys of a host are written down.
pub(crate) struct HostKeyUpdater {
    pub(crate) host_keys: HostKeys,
    pub(crate) name: Name,
    pub(crate) tunnel: String,
    /// The host as it is told to a person.
    pub(crate) shown: String,
    pub(crate) asker: PromptSender,
}

impl HostKeyUpdater {
    /// Whether there is anything to do for a host that was known, or met, by its plain key.
    pub(crate) fn wanted(&self) -> bool {
        let wanted = self.host_keys.update != UpdateHostKeys::Never;
        wanted && !self.host_keys.user_files.is_empty()
    }

    /// Waits for the server's word and heeds it, once.
    pub(crate) async fn heed(self, session: Session) {
        let mut told = session.host_keys();
        let keys = tokio::select! {
            told = told.wait_for(|keys| !keys.is_empty()) => match told {
                Ok(keys) => keys.clone(),
                Err(_) => return,
            },
            _ = session.closed() => return,
        };
        let known = match known_hosts_files::look_up(&self.host_keys, &self.name, None).await {
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
        if self.host_keys.update == UpdateHostKeys::Ask && !self.may_add(&session, &fresh).await {
            return;
        }
        for key in fresh {
            match known_hosts_files::add(&self.host_keys, &self.name, &key).await {
                Ok(()) => tracing::info!(
                    tunnel = self.tunnel,
                    "the host has proven a further key: {}",
                    named(&key)
                ),
                Err(failure) => return tracing::warn!(tunnel = self.tunnel, "{failure}"),
            }
        }
    }

    /// UpdateHostKeys ask. Nobody's answer is no, and so is the session's end.
    async fn may_add(&self, session: &Session, keys: &[Bytes]) -> bool {
        let keys: Vec<String> = keys.iter().map(|key| named(key)).collect();
        let question = PromptRequest {
            kind: PromptKind::HostKeyUpdate,
            host: self.shown.clone(),
            note: String::new(),
            text: format!(
                "The host {}, which is trusted, has proven further keys: {}",
                self.shown,
                keys.join(", ")
            ),
            fields: vec![PromptField {
                label: "Write them to known_hosts (yes/no)? ".into(),
                echo: true,
            }],
            fingerprint: None,
        };
        tokio::select! {
            answer = self.asker.ask(question) => answer
                .ok()
                .and_then(|answers| answers.into_iter().next())
                .is_some_and(|answer| answer.expose_secret().trim().eq_ignore_ascii_case("yes")),
            _ = session.closed() => false,
        }
    }
}

/// `ED25519 SHA256:…`
fn named(key: &[u8]) -> String {
    let kind = blob::short_type(known_hosts::key_type(key).unwrap_or_default());
    format!("{kind} {}", known_hosts::fingerprint(key))
}
