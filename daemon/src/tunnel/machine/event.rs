//! What happens to a tunnel, and what its task has to do about it.

use tunneld_proto::status::Phase;

use crate::failure::Failure;

/// Something that happened. Events about a session carry its epoch.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The user wants the tunnel up. Also ends a wait for the next dial.
    WantUp,
    /// The user wants the tunnel down.
    WantDown,
    /// The user wants a new session.
    Restart,
    /// The destination or the login changed in the configuration: the session needs to be replaced.
    RouteChanged,
    /// The machine's addresses or routes changed.
    NetworkChanged,
    /// The machine woke from sleep.
    Woke,
    /// The tunnel whose session carries this one has a new session.
    CarrierUp,
    /// The user has changed a file that the last dial depended on.
    FilesChanged,
    /// The dial has reached another phase.
    PhaseChanged {
        /// Epoch of the session that the dial establishes.
        epoch: u64,
        /// The phase that the dial is in now.
        phase: Phase,
    },
    /// The dial asks the user.
    PromptOpened {
        /// Epoch of the session that the dial establishes.
        epoch: u64,
        /// Id of the prompt in the registry.
        prompt: u64,
    },
    /// The dial's prompt was answered or cancelled; the dial continues.
    PromptClosed {
        /// Epoch of the session that the dial establishes.
        epoch: u64,
    },
    /// The dial would ask what another tunnel is already asking. The task has aborted the dial.
    PromptBlocked {
        /// Epoch of the session that the aborted dial would have established.
        epoch: u64,
        /// Id of the other tunnel's prompt.
        prompt: u64,
    },
    /// In `AwaitingAnswer`: the user answered, or the other tunnel's prompt is done.
    AnswerReady,
    /// In `AwaitingAnswer`: the user cancelled the prompt.
    PromptCancelled {
        /// What the status shows as the reason.
        why: Failure,
    },
    /// The session is established and its forwards are requested.
    Established {
        /// Epoch of the new session.
        epoch: u64,
    },
    /// The dial failed, or the session ended although nothing asked it to.
    Lost {
        /// Epoch of the dial or session.
        epoch: u64,
        /// Why it ended; decides when the next dial starts.
        why: Failure,
    },
    /// The session is closed, as [`Action::Close`] asked.
    Closed {
        /// Epoch of the session concerned.
        epoch: u64,
    },
    /// The time of `Machine::deadline` has passed.
    Deadline,
}

impl Event {
    /// The session that the event is about. `None` if it is about the tunnel as a whole.
    pub(super) fn epoch(&self) -> Option<u64> {
        match self {
            Self::PhaseChanged { epoch, .. }
            | Self::PromptOpened { epoch, .. }
            | Self::PromptClosed { epoch }
            | Self::PromptBlocked { epoch, .. }
            | Self::Established { epoch }
            | Self::Lost { epoch, .. }
            | Self::Closed { epoch } => Some(*epoch),
            Self::WantUp
            | Self::WantDown
            | Self::Restart
            | Self::RouteChanged
            | Self::NetworkChanged
            | Self::Woke
            | Self::CarrierUp
            | Self::FilesChanged
            | Self::AnswerReady
            | Self::PromptCancelled { .. }
            | Self::Deadline => None,
        }
    }
}

/// What the task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Dial a new session. `Established` or `Lost` follows.
    Dial {
        /// Epoch of the session to establish.
        epoch: u64,
    },
    /// Close the session, or abort the dial. `Event::Closed` follows.
    Close {
        /// Epoch of the session concerned.
        epoch: u64,
    },
    /// Check that the server still answers, within a short deadline.
    Probe {
        /// Epoch of the session concerned.
        epoch: u64,
    },
}
