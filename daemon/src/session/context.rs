//! What a dial gets from its tunnel besides the route.

use tokio::sync::mpsc;
use tunneld_proto::status::Phase;

use crate::prompt::PromptSender;
use crate::session::auth::unlocked_keys::UnlockedKeys;
use crate::session::host_key::known_hosts_files::KnownHostsWriter;
use crate::session::session::Session;

/// Everything that belongs to one dial.
#[derive(Clone)]
pub struct DialContext {
    /// The tunnel's name, for the log.
    pub tunnel: String,
    /// Receives each phase when it begins.
    pub phases: mpsc::UnboundedSender<Phase>,
    /// Sends prompts to the user, during the dial and as long as the session lives.
    pub prompts: PromptSender,
    /// The live session of the tunnel that `Via::Tunnel` names. `None` for every other route.
    pub carrier: Option<Session>,
    /// The state that this dial shares with all others.
    pub shared: DialState,
}

/// State that all dials of the daemon share. Clones are handles to the same state.
#[derive(Clone, Default)]
pub struct DialState {
    pub(super) unlocked_keys: UnlockedKeys,
    pub(super) known_hosts: KnownHostsWriter,
}
