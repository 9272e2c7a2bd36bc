//! Why a tunnel or a forward is not up, and what follows from it.

use std::fmt;

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

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal => $verdict:ident,)*) => {
        /// The kinds of failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FailureKind { $($(#[$doc])* $variant,)* }
        impl FailureKind {
            /// The kind as `last_error.kind` bears it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// What follows from it.
            pub fn verdict(self) -> Recovery {
                match self { $(Self::$variant => Recovery::$verdict,)* }
            }
        }
    };
}

kinds! {
    /// `host_command` failed or said nothing.
    HostCommand = "host_command" => Retry,
    /// The name does not resolve.
    Resolve = "resolve" => Retry,
    /// Nobody listens at the server's port.
    ConnectRefused = "connect_refused" => Retry,
    /// No route, no answer, or any other trouble of the TCP connection.
    Connect = "connect" => Retry,
    /// A deadline before the session stood.
    Timeout = "timeout" => Retry,
    /// The ProxyCommand or a jump host failed.
    Proxy = "proxy" => Retry,
    /// The two sides share no algorithm of one kind.
    NoCommonAlgorithm = "no_common_algorithm" => RetrySlowly,
    /// A bad signature, or any other break of the SSH protocol.
    Protocol = "protocol" => Retry,
    /// The host key is unknown and nobody may be asked, or said no.
    HostKeyUnknown = "host_key_unknown" => NeedsUser,
    /// The host key is not the one that is known.
    HostKeyChanged = "host_key_changed" => NeedsUser,
    /// The host key is revoked.
    HostKeyRevoked = "host_key_revoked" => NeedsUser,
    /// A known_hosts file cannot be read or written.
    KnownHosts = "known_hosts" => NeedsUser,
    /// The server refused every login that was tried.
    AuthRefused = "auth_refused" => RetrySlowly,
    /// A prompt was cancelled or ran out; no login attempt was burnt.
    PromptCancelled = "not_answered" => NeedsUser,
    /// No usable key or other means to log in.
    NoCredentials = "no_credentials" => NeedsUser,
    /// Nothing to log in with as long as the agent is away, silent, locked, empty or declines to sign.
    Agent = "agent" => RetrySlowly,
    /// Nothing to log in with as long as a command fails that should give it.
    Command = "command" => RetrySlowly,
    /// The server closed the connection.
    Disconnected = "disconnected" => Retry,
    /// Nothing was heard for interval × count.
    DeadPeer = "dead_peer" => Retry,
    /// The network changed and the session's own address is gone.
    NetworkChanged = "network_changed" => Retry,
    /// A forward failed under `exit_on_forward_failure`, or a forward's own failure.
    Forward = "forward" => Retry,
    /// A local address cannot be bound.
    BindFailed = "bind_failed" => Retry,
    /// The server did not grant a remote forward.
    RemoteForwardRefused = "remote_forward_refused" => Retry,
    /// The configuration cannot work.
    Config = "config" => NeedsUser,
    /// A defect of tunneld's own.
    Internal = "internal" => Retry,
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
        self.kind.verdict()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
