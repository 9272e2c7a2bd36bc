//! Why a tunnel or a forward is not up: the failure's kind, its text, its hint, and how the tunnel recovers from it.
//!
//! The kind decides the recovery. The code never compares the text.

use std::fmt;

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

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal => $recovery:ident,)*) => {
        /// The kinds of failure. Their texts are part of the wire protocol and do not change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FailureKind { $($(#[$doc])* $variant,)* }
        impl FailureKind {
            /// The text of the kind in `last_error.kind`, in the log and in hooks.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// How a tunnel recovers from a failure of this kind.
            pub fn recovery(self) -> Recovery {
                match self { $(Self::$variant => Recovery::$recovery,)* }
            }
        }
    };
}

kinds! {
    /// `host_command` failed or printed nothing.
    HostCommand = "host_command" => Retry,
    /// The host name does not resolve.
    Resolve = "resolve" => Retry,
    /// The server's port refused the connection.
    ConnectRefused = "connect_refused" => Retry,
    /// No route, no answer, or another error of the TCP connection.
    Connect = "connect" => Retry,
    /// A deadline passed before the session was established.
    Timeout = "timeout" => Retry,
    /// The ProxyCommand, a jump host or the carrying tunnel failed.
    Proxy = "proxy" => Retry,
    /// Client and server have no common algorithm of one category (RFC 4253 §7.1).
    NoCommonAlgorithm = "no_common_algorithm" => RetrySlowly,
    /// The server violated the SSH protocol, or its signature is wrong.
    Protocol = "protocol" => Retry,
    /// The host key is unknown, and the user could not be asked or rejected it.
    HostKeyUnknown = "host_key_unknown" => NeedsUser,
    /// The host key differs from the known one.
    HostKeyChanged = "host_key_changed" => NeedsUser,
    /// The host key is revoked.
    HostKeyRevoked = "host_key_revoked" => NeedsUser,
    /// A known_hosts file cannot be read or written.
    KnownHosts = "known_hosts" => NeedsUser,
    /// The server refused every login method that was tried.
    AuthRefused = "auth_refused" => RetrySlowly,
    /// A prompt was cancelled or timed out. This did not use up a login attempt.
    PromptCancelled = "not_answered" => NeedsUser,
    /// There is no usable key, password or other means to log in.
    NoCredentials = "no_credentials" => NeedsUser,
    /// The only credentials are in the agent, and it is missing, silent, locked, empty or declines to sign.
    Agent = "agent" => RetrySlowly,
    /// The only credentials come from a command, and it failed.
    Command = "command" => RetrySlowly,
    /// The server closed the connection.
    Disconnected = "disconnected" => Retry,
    /// The server sent nothing for `server_alive_interval` times `server_alive_count_max`.
    DeadPeer = "dead_peer" => Retry,
    /// The network changed and the session's local address no longer exists.
    NetworkChanged = "network_changed" => Retry,
    /// A forward failed and `exit_on_forward_failure` is set, or the failure of one forward.
    Forward = "forward" => Retry,
    /// A local address cannot be bound.
    BindFailed = "bind_failed" => Retry,
    /// The server refused a remote forward.
    RemoteForwardRefused = "remote_forward_refused" => Retry,
    /// The configuration is valid but cannot work.
    Config = "config" => NeedsUser,
    /// A bug in tunneld.
    Internal = "internal" => Retry,
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
        self.kind.recovery()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
