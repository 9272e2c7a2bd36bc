//! UpdateHostKeys (ssh_config(5)): adds further host keys of a trusted server to known_hosts once the server has proven
//! that it holds them (OpenSSH PROTOCOL §2.5). A host may then change its key and still be known.

use bytes::Bytes;
use secrecy::ExposeSecret as _;
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_ssh::client::Session;

use crate::failure::Failure;
use crate::prompt::{PromptRequest, PromptSender};
use crate::session::host_key::known_hosts_files::{self, KnownHostsWriter};
use tunneld_config::model::{HostKeys, UpdateHostKeys};
use tunneld_keys::known_hosts::{self, Name};
use tunneld_keys::wire;

/// Host keys of one server that are considered. Servers have about five.
const KEY_LIMIT: usize = 32;

/// Updates the known host keys of one host.
pub(crate) struct HostKeyUpdater {
    pub(crate) host_keys: HostKeys,
    pub(crate) name: Name,
    pub(crate) tunnel: String,
    /// The host as messages name it, escaped.
    pub(crate) shown: String,
    pub(crate) prompts: PromptSender,
    pub(crate) writer: KnownHostsWriter,
}

impl HostKeyUpdater {
    /// Whether the configuration asks for updates, and there is a file to write to.
    pub(crate) fn is_enabled(&self) -> bool {
        let is_asked_for = self.host_keys.update != UpdateHostKeys::Never;
        is_asked_for && !self.host_keys.user_files.is_empty()
    }

    /// Waits until the server sends its host keys, and handles them once. Failures are logged: the session works
    /// without the update.
    pub(crate) async fn run(self, session: Session) {
        let Some(keys) = received_keys(&session).await else {
            return;
        };
        let new = match self.unknown_keys(keys).await {
            Ok(new) if new.is_empty() => return,
            Ok(new) => new,
            Err(failure) => return tracing::warn!(tunnel = self.tunnel, "{failure}"),
        };
        // Without proof, a server could list the key of another host.
        if let Err(error) = session.prove_host_keys(&new).await {
            return tracing::warn!(
                tunnel = self.tunnel,
                "further host keys of the server are ignored: {error}"
            );
        }
        if self.host_keys.update == UpdateHostKeys::Ask && !self.user_agrees(&session, &new).await {
            return;
        }
        let keys: Vec<Vec<u8>> = new.iter().map(|key| key.to_vec()).collect();
        match self.writer.add(&self.host_keys, &self.name, &keys).await {
            Ok(()) => tracing::info!(
                tunnel = self.tunnel,
                "the host has proven further keys: {}",
                new.iter()
                    .map(|key| describe(key))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Err(failure) => tracing::warn!(tunnel = self.tunnel, "{failure}"),
        }
    }

    /// Those of `keys` that are not known yet and not revoked.
    async fn unknown_keys(&self, keys: Vec<Bytes>) -> Result<Vec<Bytes>, Failure> {
        let known = known_hosts_files::look_up(&self.host_keys, &self.name, None).await?;
        // A host that has as many keys as are kept is not asked to prove more.
        let room = known_hosts_files::KEYS_PER_HOST.saturating_sub(known.key_count());
        let new = keys
            .into_iter()
            .take(KEY_LIMIT)
            .filter(|key| known_hosts::is_complete(key) && !known.lists(key))
            .filter(|key| known.revoked(key).is_none());
        Ok(new.take(room).collect())
    }

    /// Asks the user. A cancelled prompt counts as no, and so does the end of the session.
    async fn user_agrees(&self, session: &Session, keys: &[Bytes]) -> bool {
        let keys: Vec<String> = keys.iter().map(|key| describe(key)).collect();
        let request = PromptRequest {
            kind: PromptKind::HostKeyUpdate,
            host: self.shown.clone(),
            note: String::new(),
            text: format!(
                "The trusted host {} has proven that it holds further keys: {}",
                self.shown,
                keys.join(", ")
            ),
            fields: vec![PromptField {
                label: "Add them to known_hosts (yes/no)? ".into(),
                echo: true,
            }],
            fingerprint: None,
            server: None,
        };
        tokio::select! {
            answer = self.prompts.ask(request) => answer
                .ok()
                .and_then(|answers| answers.into_iter().next())
                .is_some_and(|answer| answer.expose_secret().trim().eq_ignore_ascii_case("yes")),
            _ = session.closed() => false,
        }
    }
}

/// The host keys that the server has sent. `None` if the session ends before it sends any.
async fn received_keys(session: &Session) -> Option<Vec<Bytes>> {
    let mut received = session.host_keys();
    tokio::select! {
        keys = received.wait_for(|keys| !keys.is_empty()) => keys.ok().map(|keys| keys.clone()),
        _ = session.closed() => None,
    }
}

/// `ED25519 SHA256:…`
fn describe(key: &[u8]) -> String {
    let kind = wire::short_type(known_hosts::key_type(key).unwrap_or_default());
    format!("{kind} {}", known_hosts::fingerprint(key))
}
