//! Why a tunnel or a forward is not up: the kinds of failure that `last_error` reports, and whether a client that
//! waits for the tunnel gives up on them.

use serde::{Deserialize, Serialize};

macro_rules! failure_kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, ends_wait: $ends_wait:literal;)*) => {
        kinds! {
            /// Kind of a failure of a tunnel or forward, for programs to compare.
            FailureKind { $($(#[$doc])* $variant = $text,)* }
        }
        impl FailureKind {
            /// Every kind that this build knows.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns whether the failure ends a waiting `up`: time alone will not fix it, a person has to act.
            ///
            /// The daemon may still retry such a failure in the background. For a kind that this build does not
            /// know the answer is `false`; a client reads `ends_wait` from the message instead.
            ///
            /// ```
            /// use tunneld_proto::failure::FailureKind;
            /// assert!(FailureKind::AuthRefused.ends_wait());
            /// assert!(!FailureKind::ConnectRefused.ends_wait());
            /// ```
            pub fn ends_wait(&self) -> bool {
                match self {
                    $(Self::$variant => $ends_wait,)*
                    Self::Other(_) => false,
                }
            }
        }
    };
}

failure_kinds! {
    /// `host_command` failed or printed nothing; the machine that it asks about may still be starting.
    HostCommand = "host_command", ends_wait: false;
    /// The name does not resolve.
    Resolve = "resolve", ends_wait: false;
    /// The server's port refuses connections.
    ConnectRefused = "connect_refused", ends_wait: false;
    /// No route, no answer, or another error of the TCP connection.
    Connect = "connect", ends_wait: false;
    /// A deadline passed before the session was established.
    Timeout = "timeout", ends_wait: false;
    /// The ProxyCommand or a jump host failed.
    Proxy = "proxy", ends_wait: false;
    /// Client and server have no common algorithm of one type.
    NoCommonAlgorithm = "no_common_algorithm", ends_wait: true;
    /// A bad signature or another violation of the SSH protocol.
    Protocol = "protocol", ends_wait: false;
    /// The host key is unknown, and it could not be confirmed or was rejected.
    HostKeyUnknown = "host_key_unknown", ends_wait: true;
    /// The host key differs from the one in known_hosts.
    HostKeyChanged = "host_key_changed", ends_wait: true;
    /// The host key is revoked.
    HostKeyRevoked = "host_key_revoked", ends_wait: true;
    /// A file or program that the dial needs cannot be used now: no descriptors, an I/O error, a home directory that is
    /// not mounted yet.
    Unreadable = "unreadable", ends_wait: false;
    /// The content of a known_hosts file or of a list of revoked keys cannot be used, or known_hosts cannot be written.
    KnownHosts = "known_hosts", ends_wait: true;
    /// The server rejected every login that was tried.
    AuthRefused = "auth_refused", ends_wait: true;
    /// A prompt was cancelled or expired; no login attempt was used for it.
    NotAnswered = "not_answered", ends_wait: true;
    /// No usable key or other credential.
    NoCredentials = "no_credentials", ends_wait: true;
    /// No usable credential because the agent is missing, silent, locked or empty, or refuses to sign.
    Agent = "agent", ends_wait: true;
    /// No usable credential because the command that supplies it fails.
    Command = "command", ends_wait: true;
    /// The server does not accept connections from this address for a while (MaxStartups, PerSourcePenalties).
    NotAllowedNow = "not_allowed_now", ends_wait: false;
    /// The server closed the connection.
    Disconnected = "disconnected", ends_wait: false;
    /// The server sent nothing for `server_alive_interval` × `server_alive_count_max`.
    DeadPeer = "dead_peer", ends_wait: false;
    /// The network changed, and the local address of the session is gone.
    NetworkChanged = "network_changed", ends_wait: false;
    /// A forward failed, or the tunnel failed because of `exit_on_forward_failure`.
    Forward = "forward", ends_wait: true;
    /// A local address cannot be bound.
    BindFailed = "bind_failed", ends_wait: true;
    /// The server refused a remote forward.
    RemoteForwardRefused = "remote_forward_refused", ends_wait: true;
    /// The configuration cannot work.
    Config = "config", ends_wait: true;
    /// A bug in tunneld.
    Internal = "internal", ends_wait: false;
}
