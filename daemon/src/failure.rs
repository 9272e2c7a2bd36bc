//! Why a tunnel or a forward is not up: the failure's kind, its text, its hint, and how the tunnel recovers from it.
//!
//! The kind decides the recovery. The code never compares the text.

use std::fmt;

pub use tunneld_proto::failure::FailureKind;

/// One failure, as the status and the log show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The stable kind, which programs compare and which decides the recovery.
    pub kind: FailureKind,
    /// One sentence: what was being done, and what happened. Text from servers and programs is already escaped.
    pub message: String,
    /// What the user can do about it. `None` if there is nothing to suggest.
    pub hint: Option<String>,
}

/// How a tunnel continues after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Waiting may be enough: retry with the tunnel's own backoff.
    Retry,
    /// Every attempt may count as a failed login, or needs something that does not come back soon: retry after 30 s,
    /// doubling to 10 min, so that the server does not lock the account.
    RetrySlowly,
    /// Retrying cannot help: the tunnel fails until the user acts.
    NeedsUser,
}

impl Failure {
    /// Creates a failure without a hint.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds the hint: what the user can do, best a command to run.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// How the tunnel recovers, as decided by the kind.
    pub fn recovery(&self) -> Recovery {
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
            | FailureKind::NotAllowedNow
            | FailureKind::AuthRefused
            | FailureKind::Agent
            | FailureKind::Command => Recovery::RetrySlowly,
            FailureKind::HostCommand
            | FailureKind::Resolve
            | FailureKind::ConnectRefused
            | FailureKind::Connect
            | FailureKind::Timeout
            | FailureKind::Unreadable
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
