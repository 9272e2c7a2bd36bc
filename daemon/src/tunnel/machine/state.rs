//! The states of a tunnel. Each state carries the data that only it has.
//!
//! `degraded` is not a state: the status derives it from `Up` and the forwards.

use tokio::time::Instant;
use tunneld_proto::status::{Desired, Phase};

use crate::failure::Failure;

/// The state of one tunnel.
///
/// An epoch numbers one session from its dial to its end. Epochs start at 1 and are never reused.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// The user does not want the tunnel up.
    Stopped,
    /// A dial is under way, or the new session is requesting its forwards.
    Connecting {
        /// Epoch of the session that the dial establishes.
        epoch: u64,
        /// Failures in a row before this dial.
        attempts: Attempts,
        /// The step that the dial has reached.
        phase: Phase,
    },
    /// A dial waits for the user to answer its prompt.
    NeedsInput {
        /// Epoch of the session that the dial establishes.
        epoch: u64,
        /// Failures in a row before this dial.
        attempts: Attempts,
        /// The step in which the dial asked.
        phase: Phase,
        /// Id of the dial's prompt.
        prompt: u64,
    },
    /// A session is established and has requested its forwards.
    Up {
        /// Epoch of the live session.
        epoch: u64,
        /// Failures before this session. They count until it has been up for `STABLE_AFTER`.
        attempts: Attempts,
        /// When the session was established.
        since: Instant,
    },
    /// The last dial or session failed; the next dial starts at `until`.
    Waiting {
        /// Failures in a row, including the last one.
        attempts: Attempts,
        /// When the next dial starts.
        until: Instant,
        /// The last failure, whose recovery decided the delay.
        why: Failure,
    },
    /// A session or a dial is being closed.
    Closing {
        /// Epoch of the session or dial being closed.
        epoch: u64,
        /// What follows once it is closed.
        then: AfterClose,
    },
    /// There is no connection, but a prompt is still open: the server closed the connection while the user was being
    /// asked, or another tunnel asks the same user first. The next dial starts when there is an answer.
    AwaitingAnswer {
        /// Failures so far. The closed connection is not among them.
        attempts: Attempts,
        /// Id of the open prompt, its own or the other tunnel's.
        prompt: u64,
    },
    /// Retrying cannot help: the tunnel waits for the user to change something.
    Failed {
        /// The failure that the user has to resolve.
        why: Failure,
    },
}

impl State {
    /// What the user wants. Each state implies it, so it is not stored a second time.
    pub fn desired(&self) -> Desired {
        match self {
            Self::Stopped
            | Self::Closing {
                then: AfterClose::Stop,
                ..
            } => Desired::Down,
            _ => Desired::Up,
        }
    }
}

/// What follows once a session is closed. A command that arrives meanwhile only replaces this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterClose {
    /// Nothing: the tunnel is stopped.
    Stop,
    /// The dial of a new session, with no failures counted.
    Connect,
}

/// Failures in a row. They decide the delay before the next dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    /// Failures of any kind, for the delay after an ordinary one.
    pub failures: u32,
    /// Those among them whose recovery is `RetrySlowly`, for the delay after such a one.
    pub refusals: u32,
}
