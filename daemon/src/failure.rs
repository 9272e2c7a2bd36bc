//! Why a tunnel or a forward is not up, and what follows from it.

use std::fmt;

pub use tunneld_proto::failure::FailureKind;

/// One failure: its stable kind, what a person reads, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What programs compare, and what decides the verdict.
    pub kind: FailureKind,
    /// One sentence: what was being done, and what happened. Foreign text in it is escaped already.
    pub message: String,
    /// What to do now.
    pub hint: Option<String>,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Time alone may mend it: try again with the tunnel's backoff.
    Retry,
    /// A login was refused: try again from 30 s to 10 min, so that nobody is locked out.
    RetrySlowly,
    /// Stands still until a person acts.
    NeedsUser,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// The same failure with what to do now.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What follows from it.
    pub fn verdict(&self) -> Recovery {
        match self.kind {
            FailureKind::HostKeyUnknown
            | FailureKind::HostKeyChanged
            | FailureKind::HostKeyRevoked
            | FailureKind::KnownHosts
            | FailureKind::NotAnswered
            | FailureKind::NoCredentials
            | FailureKind::Config => Recovery::NeedsUser,
            // May count as a login attempt at the server, or would be refused again for the same reason.
            FailureKind::NoCommonAlgorithm
            | FailureKind::AuthRefused
            | FailureKind::Agent
            | FailureKind::Command => Recovery::RetrySlowly,
            FailureKind::HostCommand
            | FailureKind::Resolve
            | FailureKind::ConnectRefused
            | FailureKind::Connect
            | FailureKind::Timeout
            | FailureKind::Proxy
            | FailureKind::Protocol
            | FailureKind::Disconnected
            | FailureKind::DeadPeer
            | FailureKind::NetworkChanged
            | FailureKind::Forward
            | FailureKind::BindFailed
            | FailureKind::RemoteForwardRefused
            | FailureKind::Internal
            | FailureKind::Other(_) => Recovery::Retry,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
