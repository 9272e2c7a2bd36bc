//! What a tunnel is and does, as `tunnel.status` and events tell it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::FailureKind;

/// One tunnel, as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// The name of `[tunnel.NAME]`.
    pub name: String,
    /// The state.
    pub state: State,
    /// What a `connecting` tunnel is at.
    pub phase: Option<Phase>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// The destination, `user@host:port`, as far as it is known.
    pub host: String,
    /// The jump hosts, nearest first.
    #[serde(default)]
    pub via: Vec<String>,
    /// The configuration's tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The configuration's description.
    pub description: Option<String>,
    /// What the user wants.
    pub desired: Desired,
    /// The connection attempt under way or last made, from 1; 0 before the first.
    pub attempt: u32,
    /// When a `waiting` tunnel tries again.
    pub retry_at: Option<Timestamp>,
    /// The last failure, kept until the tunnel is up again.
    pub last_error: Option<LastError>,
    /// The prompt that a `needs_input` tunnel waits for.
    pub prompt: Option<Prompt>,
    /// The live session.
    pub session: Option<SessionStatus>,
    /// How many sessions followed a lost one since the daemon began.
    pub reconnects: u64,
    /// The forwards, in the configuration's order.
    pub forwards: Vec<ForwardStatus>,
    /// What a person should know and need not act on now: a stale file, an ssh_config not read, an option that cannot be honoured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A tunnel's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not wanted.
    Stopped,
    /// On demand, listening.
    Idle,
    /// A session is being made; see the phase.
    Connecting,
    /// Waits for a person's answer.
    NeedsInput,
    /// A session stands and every forward with it.
    Up,
    /// A session stands, some forward does not.
    Degraded,
    /// Tries again at `retry_at`.
    Waiting,
    /// Stands still until a person acts.
    Failed,
    /// A state of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl State {
    /// The state as it stands on the wire.
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

/// What a connecting tunnel is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Runs `host_command`.
    HostCommand,
    /// Looks the name up.
    Resolve,
    /// Opens the TCP connection.
    Tcp,
    /// Starts the ProxyCommand or dials the jump hosts.
    Proxy,
    /// Exchanges keys.
    Kex,
    /// Checks the host key.
    HostKey,
    /// Logs in.
    Auth,
    /// Asks for the remote forwards.
    Forwards,
    /// A phase of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// The phase as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
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

/// What the user wants of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Kept up.
    Up,
    /// Not run.
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
    /// When it happened.
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
            ends_wait: kind.ends_wait(),
            kind,
            message: message.into(),
            hint,
            at,
        }
    }
}

/// A live SSH session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Since when it stands.
    pub since: Timestamp,
    /// The server's identification, such as `SSH-2.0-OpenSSH_9.2p1`.
    pub server: String,
    /// The key exchange method.
    pub kex: String,
    /// The cipher.
    pub cipher: String,
    /// The MAC; none where the cipher brings its own.
    pub mac: Option<String>,
    /// The host key, type and SHA256 fingerprint.
    pub host_key: String,
    /// How the login went, such as `publickey (agent, ED25519 SHA256:…)`.
    pub auth: String,
    /// The last measured round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// How often the server did what nothing allows, such as opening a channel that nobody asked for; all of it was
    /// refused.
    #[serde(default)]
    pub offences: u64,
}

/// One forward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForwardStatus {
    /// Its kind.
    pub kind: ForwardKind,
    /// The address really bound, port 0 resolved; the configured one until then.
    pub listen: String,
    /// Where it leads; none for a dynamic forward, either side.
    pub to: Option<String>,
    /// Its state.
    pub state: ForwardState,
    /// Why it is not listening.
    pub error: Option<LastError>,
    /// Whether other machines can reach the listener.
    pub exposed: bool,
    /// Connections open now.
    pub connections: u64,
    /// Of these, how many wait for the session.
    pub held: u64,
    /// Connections since the daemon began.
    pub total: u64,
    /// Bytes from the SSH side to the near side (for a local forward: received).
    pub bytes_in: u64,
    /// Bytes to the SSH side.
    pub bytes_out: u64,
}

/// The kind of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardKind {
    /// ssh -L.
    Local,
    /// ssh -R.
    Remote,
    /// ssh -D.
    Dynamic,
}

impl ForwardKind {
    /// The kind as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Dynamic => "dynamic",
        }
    }
}

/// The state of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardState {
    /// Takes connections.
    Listening,
    /// Not asked for yet.
    Pending,
    /// Could not be had; tried again.
    Failed,
}

impl ForwardState {
    /// The state as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Pending => "pending",
            Self::Failed => "failed",
        }
    }
}

/// A question to a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// What `prompt.answer` names.
    pub id: u64,
    /// The tunnel that asks; the first, where several wait for the same host.
    pub tunnel: String,
    /// What is asked for.
    pub kind: PromptKind,
    /// Who asks: `user@host:port`.
    pub host: String,
    /// The text above the fields, escaped for a terminal.
    pub text: String,
    /// The fields, one answer each.
    pub fields: Vec<PromptField>,
    /// The host key's SHA256 fingerprint, where `kind` is `host_key`.
    pub fingerprint: Option<String>,
    /// Since when it waits.
    pub since: Timestamp,
}

/// One field of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptField {
    /// The label, escaped for a terminal.
    pub label: String,
    /// Whether the answer may be seen while it is typed.
    pub echo: bool,
}

impl PromptKind {
    /// The kind as it stands on the wire.
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

/// What a prompt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// Whether an unknown host key is trusted: "yes", "no" or the fingerprint.
    HostKey,
    /// A key file's passphrase.
    Passphrase,
    /// The account's password.
    Password,
    /// A new password, where the old one has expired.
    NewPassword,
    /// keyboard-interactive, RFC 4256: whatever the server asks.
    KeyboardInteractive,
    /// Whether further keys of a trusted host are written down: "yes" or "no"; the tunnel is up meanwhile.
    HostKeyUpdate,
    /// A kind of a newer daemon.
    #[serde(other)]
    Unknown,
}
