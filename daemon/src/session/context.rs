//! What a dial gets from its tunnel besides the route.

use tokio::sync::mpsc;
use tunneld_proto::status::Phase;

use crate::prompt::PromptSender;
use crate::session::auth::pending_signatures::PendingSignatures;
use crate::session::auth::unlocked_keys::UnlockedKeys;
use crate::session::connect_limiter::{ConnectLimiter, ConnectPermit};
use crate::session::host_key::known_hosts_files::KnownHostsWriter;
use crate::session::session::Session;
use crate::session::slots::Priority;

/// Everything that belongs to one dial.
#[derive(Clone)]
pub struct DialContext {
    /// The tunnel's name, for the log.
    pub tunnel: String,
    /// Receives each phase when it begins.
    pub phases: PhaseReporter,
    /// Sends prompts to the user, during the dial and as long as the session lives.
    pub prompts: PromptSender,
    /// The live session of the tunnel that `Via::Tunnel` names. `None` for every other route.
    pub carrier: Option<Session>,
    /// Holds the slots that the dial has taken of the limiter. The tunnel gives them back while the user is asked.
    pub permit: ConnectPermit,
    /// The place of this dial among those that wait.
    pub priority: Priority,
    /// The state that this dial shares with all others.
    pub shared: DialState,
}

/// Reports the phases of a dial to its tunnel.
#[derive(Debug, Clone)]
pub struct PhaseReporter {
    sender: mpsc::UnboundedSender<Phase>,
    in_jump_host: bool,
}

impl PhaseReporter {
    /// Creates a reporter, and the receiver of the phases.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Phase>) {
        let (sender, phases) = mpsc::unbounded_channel();
        let reporter = Self {
            sender,
            in_jump_host: false,
        };
        (reporter, phases)
    }

    /// The reporter for a jump host of the same dial. Its phases would be taken for the tunnel's own: for the tunnel, all
    /// of it is `Proxy`, except that it waits for its turn.
    pub(super) fn for_jump_host(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            in_jump_host: true,
        }
    }

    /// Reports that a phase begins.
    pub(super) fn report(&self, phase: Phase) {
        let shown = match self.in_jump_host && phase != Phase::Queued {
            true => Phase::Proxy,
            false => phase,
        };
        // Fails only if the tunnel is about to drop this dial.
        let _ = self.sender.send(shown);
    }
}

/// State that all dials of the daemon share. Clones are handles to the same state.
#[derive(Clone, Default)]
pub struct DialState {
    pub(super) unlocked_keys: UnlockedKeys,
    pub(super) signatures: PendingSignatures,
    pub(super) known_hosts: KnownHostsWriter,
    pub(super) limiter: ConnectLimiter,
}

impl DialState {
    /// Creates the state of a daemon whose dials go through `limiter`.
    pub fn new(limiter: ConnectLimiter) -> Self {
        Self {
            limiter,
            ..Self::default()
        }
    }

    /// Wipes secrets of earlier dials from memory when they are too old. Never returns.
    pub async fn wipe_old_secrets(&self) {
        self.unlocked_keys.wipe_old_results().await;
    }
}
