//! The state of a tunnel, its session, forwards and prompts, as in `tunnel.status` and events.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::FailureKind;

/// Everything that is known about one tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Name, as in `[tunnel.NAME]`.
    pub name: String,
    /// Current state, see [`State`].
    pub state: State,
    /// Phase of a `connecting` or `needs_input` tunnel; else `None`.
    pub phase: Option<Phase>,
    /// Start of the current state.
    pub since: Timestamp,
    /// Destination `user@host:port`; parts that are not known yet are left out.
    pub host: String,
    /// Jump hosts in the order of the connection; `tunnel:NAME` for another tunnel, `proxy_command` for a command.
    #[serde(default)]
    pub via: Vec<String>,
    /// Tags from the configuration, for selecting tunnels.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Description from the configuration; `None` without one.
    pub description: Option<String>,
    /// The state that the user asked for.
    pub desired: Desired,
    /// Number of the current or last connection attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// When a `waiting` tunnel tries again; else `None`.
    pub retry_at: Option<Timestamp>,
    /// Last failure, kept until the tunnel is up again.
    pub last_error: Option<LastError>,
    /// The prompt that the tunnel is waiting for.
    pub prompt: Option<Prompt>,
    /// The established SSH session; `None` without one.
    pub session: Option<SessionStatus>,
    /// Number of sessions since the daemon started that replaced a lost one.
    pub reconnects: u64,
    /// Forwards in the order of the configuration.
    pub forwards: Vec<ForwardStatus>,
    /// What browsers use the proxy of the tunnel's dynamic forward for, as the configuration's `proxy_for` says; empty if
    /// it does not.
    #[serde(default)]
    pub proxy_for: Vec<String>,
    /// The user name that clients of the tunnel's dynamic forward must log in with. `None` if they need no login, and from
    /// a daemon that does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_user: Option<String>,
    /// Notes for the user that need no action now: an outdated file, an ssh_config that is not read, an option that is not
    /// supported.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// State of a tunnel, from the user's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Stopped by the user, or not started.
    Stopped,
    /// Starts on demand; its listeners are open.
    Idle,
    /// A session is being established; `phase` says how far.
    Connecting,
    /// Waiting for an answer to a prompt.
    NeedsInput,
    /// The session and every forward work.
    Up,
    /// The session works, but at least one forward does not.
    Degraded,
    /// Waiting for the next attempt at `retry_at`.
    Waiting,
    /// Not retried until the user acts.
    Failed,
    /// A state of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl State {
    /// Returns the state as it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::NeedsInput => "needs_input",
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Phase of the connection setup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for its turn: as many other tunnels as allowed connect to the same server, or work at their handshakes.
    Queued,
    /// Runs `host_command`, which prints the host.
    HostCommand,
    /// Resolves the host name to addresses.
    Resolve,
    /// Opens the TCP connection to the server.
    Tcp,
    /// Starts the ProxyCommand or connects to the jump hosts.
    Proxy,
    /// Exchanges identification strings and keys (RFC 4253).
    Kex,
    /// Checks the host key against known_hosts.
    HostKey,
    /// Logs in at the server (RFC 4252).
    Auth,
    /// Requests the remote forwards from the server.
    Forwards,
    /// A phase of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// Returns the phase as it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::HostCommand => "host_command",
            Self::Resolve => "resolve",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Kex => "kex",
            Self::HostKey => "host_key",
            Self::Auth => "auth",
            Self::Forwards => "forwards",
            Self::Unknown => "unknown",
        }
    }
}

/// The state that the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// The daemon keeps the tunnel up.
    Up,
    /// The daemon keeps the tunnel stopped.
    Down,
}

/// The last failure of a tunnel or forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// Stable kind, for programs to compare.
    pub kind: FailureKind,
    /// One sentence: what was being done, and what happened.
    pub message: String,
    /// What the user can do about it; `None` if nothing is known to help.
    pub hint: Option<String>,
    /// When the failure happened.
    pub at: Timestamp,
    /// Whether a client that waits for the tunnel should give up, see [`FailureKind::ends_wait`]. Sent with the
    /// message so that a client also obeys it for kinds that are newer than the client; a daemon that does not send it
    /// means `false`.
    #[serde(default)]
    pub ends_wait: bool,
}

impl LastError {
    /// Builds the wire form of a failure; `ends_wait` follows from `kind`.
    pub fn new(
        kind: FailureKind,
        message: impl Into<String>,
        hint: Option<String>,
        at: Timestamp,
    ) -> Self {
        Self {
            // Computed by the daemon, so that an older client needs no list of kinds to know whether waiting is
            // useless.
            ends_wait: kind.ends_wait(),
            kind,
            message: message.into(),
            hint,
            at,
        }
    }
}

/// An established SSH session and what was negotiated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// When the login was completed.
    pub since: Timestamp,
    /// Identification string of the server, such as `SSH-2.0-OpenSSH_9.2p1`.
    pub server: String,
    /// Name of the key exchange method.
    pub kex: String,
    /// Name of the cipher, such as `aes128-gcm@openssh.com`.
    pub cipher: String,
    /// Name of the MAC; `None` for an AEAD cipher.
    pub mac: Option<String>,
    /// Host key: type and SHA256 fingerprint.
    pub host_key: String,
    /// Login method that succeeded, such as `publickey (agent, ED25519 SHA256:…)`.
    pub auth: String,
    /// Last measured round trip time in milliseconds; `None` before the first measurement.
    pub rtt_ms: Option<f64>,
    /// Number of requests of the server that SSH does not allow, such as opening a channel without a forward; all were
    /// refused.
    #[serde(default)]
    pub offences: u64,
}

/// State and counters of one forward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForwardStatus {
    /// Local, remote or dynamic, as with ssh, or DNS.
    pub kind: ForwardKind,
    /// The bound address with the real port; until it is bound, the configured one.
    pub listen: String,
    /// Target, of a DNS forward the server that it asks; `None` for a dynamic forward and for a remote forward without a target (reverse SOCKS).
    pub to: Option<String>,
    /// Whether the listener accepts connections.
    pub state: ForwardState,
    /// Why it does not listen, if `state` is `failed`; of a `listening` forward, why it does not listen on one of its two
    /// addresses (the tunnel is `degraded` then). Else `None`.
    pub error: Option<LastError>,
    /// Whether other machines can reach the listener: it is not bound to loopback.
    pub exposed: bool,
    /// Number of connections that are open now. Of a DNS forward, TCP connections and queries over UDP.
    pub connections: u64,
    /// How many of the open connections wait for the session.
    pub held: u64,
    /// Number of connections since the daemon started.
    pub total: u64,
    /// Bytes from the SSH session to the local side.
    pub bytes_in: u64,
    /// Bytes from the local side to the SSH session.
    pub bytes_out: u64,
    /// Last refusal of a connection; `None` if none was refused since the daemon started, and from a daemon that does not
    /// report it.
    #[serde(default)]
    pub refused: Option<Refusal>,
}

/// The last refusal of a connection that a forward accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Reason code of the server (RFC 4254 §5.1): 1 prohibited, 2 connect failed, 3 unknown channel type, 4 resource
    /// shortage. `None` if the server did not answer in time, or if the target of a remote forward could not be reached.
    pub code: Option<u32>,
    /// The server's words, escaped, or what failed.
    pub message: String,
    /// When the connection was refused.
    pub at: Timestamp,
    /// Number of refused connections since the daemon started, this one included.
    pub count: u64,
}

/// Kind of a forward: which side listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardKind {
    /// `ssh -L`: a local listener.
    Local,
    /// `ssh -R`: a listener on the server.
    Remote,
    /// `ssh -D`: a local SOCKS proxy.
    Dynamic,
    /// `dns_listen`: a local DNS server that asks one at the far side.
    Dns,
    /// A kind of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl ForwardKind {
    /// Returns the kind as it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Dynamic => "dynamic",
            Self::Dns => "dns",
            Self::Unknown => "unknown",
        }
    }
}

/// State of the listener of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardState {
    /// The address is bound, and connections are accepted.
    Listening,
    /// Not bound or not requested yet.
    Pending,
    /// Could not be bound, or was refused; retried.
    Failed,
}

impl ForwardState {
    /// Returns the state as it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Pending => "pending",
            Self::Failed => "failed",
        }
    }
}

/// A question to the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Id for `prompt.answer` and `prompt.cancel`.
    pub id: u64,
    /// The tunnel that asks; the first one if several wait for the same answer.
    pub tunnel: String,
    /// What kind of answer is needed.
    pub kind: PromptKind,
    /// Login that the question is about: `user@host:port`.
    pub host: String,
    /// Text above the fields, escaped; may have several lines.
    pub text: String,
    /// Fields, each of which takes one answer.
    pub fields: Vec<PromptField>,
    /// SHA256 fingerprint of the host key if `kind` is `host_key`.
    pub fingerprint: Option<String>,
    /// When the prompt was opened.
    pub since: Timestamp,
}

/// One field of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptField {
    /// Label, escaped to one line.
    pub label: String,
    /// Whether the answer is shown while it is typed; false for secrets.
    pub echo: bool,
}

impl PromptKind {
    /// Returns the kind as it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostKey => "host_key",
            Self::Passphrase => "passphrase",
            Self::Password => "password",
            Self::NewPassword => "new_password",
            Self::KeyboardInteractive => "keyboard_interactive",
            Self::HostKeyUpdate => "host_key_update",
            Self::Unknown => "unknown",
        }
    }
}

/// Kind of the answer that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// Confirm an unknown host key: "yes", "no" or the fingerprint.
    HostKey,
    /// Passphrase of a key file.
    Passphrase,
    /// Password of the account on the server.
    Password,
    /// New password, because the old one has expired.
    NewPassword,
    /// Questions of the server by keyboard-interactive (RFC 4256).
    KeyboardInteractive,
    /// Save further keys of a known host: "yes" or "no". The tunnel is up meanwhile.
    HostKeyUpdate,
    /// A kind of a newer daemon.
    #[serde(other)]
    Unknown,
}
