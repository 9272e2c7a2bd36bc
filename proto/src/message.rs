//! The messages: JSON-RPC envelopes, parameters and results of each method, and events.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::RpcError;
use crate::status::{Prompt, TunnelStatus};

/// A request, or a notification if it has no id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Always "2.0", the version of JSON-RPC.
    pub jsonrpc: String,
    /// Repeated in the reply; `None` for a notification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// One of the names in [`method`].
    pub method: String,
    /// Parameters of the method; null if it has none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

/// A reply; it has either `result` or `error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Always "2.0", the version of JSON-RPC.
    pub jsonrpc: String,
    /// Id of the request; null if the request could not be parsed.
    pub id: Value,
    /// Result of the method; `None` for an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why the call failed; `None` for a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RpcError>,
}

/// Names of the methods and notifications.
pub mod method {
    /// Agrees on a protocol version; must be the first call of a connection, within 10 s. Takes [`Hello`](super::Hello),
    /// returns [`Welcome`](super::Welcome).
    pub const HELLO: &str = "hello";
    /// Starts tunnels. Takes [`Names`](super::Names), returns [`Tunnels`](super::Tunnels).
    pub const UP: &str = "tunnel.up";
    /// Stops tunnels. Takes [`Names`](super::Names), returns [`Tunnels`](super::Tunnels).
    pub const DOWN: &str = "tunnel.down";
    /// Stops tunnels and starts them again. Takes [`Names`](super::Names), returns [`Tunnels`](super::Tunnels).
    pub const RESTART: &str = "tunnel.restart";
    /// Adds an ad-hoc tunnel. Takes [`Add`](super::Add), returns [`Added`](super::Added).
    pub const ADD: &str = "tunnel.add";
    /// Stops and removes an ad-hoc tunnel. Takes [`Remove`](super::Remove).
    pub const REMOVE: &str = "tunnel.remove";
    /// Returns the state of tunnels. Takes [`StatusParams`](super::StatusParams), returns [`Tunnels`](super::Tunnels).
    pub const STATUS: &str = "tunnel.status";
    /// Lists the open prompts. Returns [`Prompts`](super::Prompts).
    pub const PROMPT_LIST: &str = "prompt.list";
    /// Answers a prompt; the first valid answer of any client counts. Takes [`Answer`](super::Answer).
    pub const PROMPT_ANSWER: &str = "prompt.answer";
    /// Cancels a prompt that the user does not want to answer. Takes [`Cancel`](super::Cancel).
    pub const PROMPT_CANCEL: &str = "prompt.cancel";
    /// Announces that this client asks prompts, so that the daemon opens no window for them. Takes
    /// [`Attend`](super::Attend).
    pub const PROMPT_ATTEND: &str = "prompt.attend";
    /// Reads the configuration again and applies it. Returns [`ReloadReport`](super::ReloadReport).
    pub const RELOAD: &str = "config.reload";
    /// Returns the last log lines, and sends new ones if asked to. Takes [`LogTail`](super::LogTail), returns
    /// [`LogLines`](super::LogLines).
    pub const LOG_TAIL: &str = "log.tail";
    /// Sets the log filter of the running daemon. Takes [`SetLevel`](super::SetLevel).
    pub const LOG_SET_LEVEL: &str = "log.set_level";
    /// Turns the connection into a byte stream through a tunnel. Takes [`Connect`](super::Connect).
    pub const CONNECT: &str = "connect";
    /// Returns the state of the daemon, [`DaemonStatus`](super::DaemonStatus).
    pub const DAEMON_STATUS: &str = "daemon.status";
    /// Returns the proxy auto-configuration file, [`Pac`](super::Pac).
    pub const PAC: &str = "proxy.pac";
    /// Returns the metrics of the daemon and its tunnels, [`Metrics`](super::Metrics).
    pub const METRICS: &str = "daemon.metrics";
    /// Opens the web page for one browser, [`WebOpened`](super::WebOpened).
    pub const WEB_OPEN: &str = "web.open";
    /// Returns the user name and password of a tunnel's proxy. Takes [`ProxyOf`](super::ProxyOf), returns
    /// [`ProxyPassword`](super::ProxyPassword).
    pub const PROXY_PASSWORD: &str = "proxy.password";
    /// Stops the daemon and all tunnels.
    pub const SHUTDOWN: &str = "daemon.shutdown";
    /// Returns a snapshot, then sends every change as an event. Takes [`Subscribe`](super::Subscribe), returns
    /// [`Snapshot`](super::Snapshot).
    pub const SUBSCRIBE: &str = "events.subscribe";
    /// Notification: an event, with [`Event`](super::Event) as parameters.
    pub const EVENT: &str = "event";
    /// Notification: the client was too slow and missed events; carries a fresh snapshot.
    pub const LAGGED: &str = "lagged";
    /// Notification: a log line, with [`LogLine`](super::LogLine) as parameters.
    pub const LOG: &str = "log";
}

/// Parameters of `hello`: who the client is and what it supports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Name and version of the client, such as `tunnelctl 0.1.0`.
    pub client: String,
    /// Protocol versions that the client supports.
    pub protocol: Vec<u32>,
}

/// Result of `hello`: what the daemon supports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version of the daemon, such as `0.1.0`.
    pub version: String,
    /// Protocol version of this connection: the best one that both sides support.
    pub protocol: u32,
    /// Process id of the daemon.
    pub pid: u32,
    /// Optional features of the daemon that were added after protocol version 1.
    #[serde(default)]
    pub features: Vec<String>,
}

/// Parameters of `tunnel.up`, `tunnel.down` and `tunnel.restart`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Exact names; tunnelctl resolves patterns and tags before the call.
    pub names: Vec<String>,
    /// Whether the reply is sent only when each tunnel is up (or down), one has failed, or the time limit has passed.
    #[serde(default)]
    pub wait: bool,
    /// Time limit of the wait in milliseconds; `None` for 30 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Parameters of `tunnel.status`: the tunnels to return.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusParams {
    /// Exact names; empty for all tunnels.
    #[serde(default)]
    pub names: Vec<String>,
}

/// Result of `proxy.pac`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pac {
    /// The text of the file, as the dynamic forwards serve it at `/proxy.pac`.
    pub file: String,
}

/// Result of `daemon.metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// The metrics in the Prometheus text format, version 0.0.4.
    pub text: String,
}

/// Result of `web.open`: where one browser finds the web page. `Debug` leaves out the address, which holds a key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebOpened {
    /// Address with a key that is valid for a minute and for one use.
    pub url: String,
    /// Path of a file that leads to the address and that only this user can read, for the browser's command line; it is
    /// removed after a minute. `None` if it could not be written.
    pub file: Option<String>,
}

impl std::fmt::Debug for WebOpened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebOpened")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Parameters of `proxy.password`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyOf {
    /// The tunnel whose proxy it is.
    pub name: String,
}

/// Result of `proxy.password`: what a client of the tunnel's dynamic forward must send.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyPassword {
    /// The user name, as `proxy_user` says.
    pub user: String,
    /// What `proxy_user_password_command` has printed. The caller must not log it.
    pub password: String,
}

impl std::fmt::Debug for ProxyPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyPassword")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Result of `tunnel.status`, `tunnel.up`, `tunnel.down` and `tunnel.restart`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tunnels {
    /// Sorted by name.
    pub tunnels: Vec<TunnelStatus>,
}

/// Parameters of `tunnel.add`: name and configuration of the new tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// Name of the new tunnel.
    pub name: String,
    /// The keys of `[tunnel.NAME]` as a JSON object.
    pub spec: Value,
    /// Whether the tunnel is saved in the configuration.
    #[serde(default)]
    pub save: bool,
}

/// Result of `tunnel.add`: what was added and where it was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Name of the new tunnel.
    pub name: String,
    /// The file in which it was saved; `None` if it was not saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Parameters of `tunnel.remove`. Only ad-hoc tunnels can be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// Name of an ad-hoc tunnel.
    pub name: String,
}

/// Result of `prompt.list`: the questions that no client has answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompts {
    /// Oldest first.
    pub prompts: Vec<Prompt>,
}

/// Parameters of `prompt.answer`. `Debug` leaves out the answers, which may be secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Id of the prompt, from [`Prompt::id`].
    pub id: u64,
    /// One answer per field of the prompt.
    pub answers: Vec<String>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Parameters of `prompt.cancel`: the prompt that the user declines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Id of the prompt, from [`Prompt::id`].
    pub id: u64,
}

/// Parameters of `prompt.attend`. Valid until the connection ends or the next `prompt.attend`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attend {
    /// Exact names; empty for all tunnels.
    #[serde(default)]
    pub names: Vec<String>,
}

/// Result of `config.reload`, and body of the `config` event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Names of the new tunnels.
    pub added: Vec<String>,
    /// Names of tunnels whose configuration changed.
    pub changed: Vec<String>,
    /// Names of the removed tunnels.
    pub removed: Vec<String>,
    /// All errors. Tunnels in a file with errors keep their last good configuration.
    pub errors: Vec<ConfigFault>,
}

/// One error in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFault {
    /// Path of the configuration file.
    pub file: String,
    /// Line, from 1; `None` if the error is about the whole file.
    pub line: Option<u64>,
    /// Column in characters, from 1; `None` if the error is about the whole file or line.
    pub column: Option<u64>,
    /// What is wrong, in one sentence.
    pub message: String,
    /// The whole error with excerpt and help, as `tunnelctl check` prints it; several lines.
    pub rendered: String,
}

/// Parameters of `log.tail`: which log lines to return.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTail {
    /// Only lines of this tunnel; `None` for all lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only lines since this time; `None` for all that the daemon keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Whether new lines follow as `log` notifications.
    #[serde(default)]
    pub follow: bool,
}

/// One line of the log, as `log.tail` returns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the line was logged.
    pub at: Timestamp,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// The tunnel that it is about; `None` for the daemon itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Text and fields, escaped to one line.
    pub message: String,
}

/// Result of `log.tail`: the lines that the daemon keeps in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLines {
    /// Oldest first.
    pub lines: Vec<LogLine>,
}

/// Parameters of `log.set_level`: the new filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLevel {
    /// Filter in the grammar of `RUST_LOG`, such as `debug` or `info,tunneld::session=trace`.
    pub filter: String,
}

/// Parameters of `connect`: the target of the byte stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Name of the tunnel whose session carries the stream.
    pub name: String,
    /// Host name or address, resolved by the SSH server.
    pub host: String,
    /// TCP port of the target.
    pub port: u16,
}

/// Result of `daemon.status`: the state of the daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Version of the daemon, such as `0.1.0`.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// When the daemon was started.
    pub since: Timestamp,
    /// Path of the configuration directory.
    pub config_dir: String,
    /// Path of the control socket or name of the pipe.
    pub socket: String,
    /// Current errors in the configuration.
    pub config_errors: Vec<ConfigFault>,
    /// Number of log lines that were dropped because the log file or journal was too slow.
    pub log_dropped: u64,
    /// Number of connected control clients.
    pub clients: u64,
    /// Notes for the user, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Parameters of `events.subscribe`: where the events start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// Number of the last event that the client has seen; later events that the daemon still has follow the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seq: Option<u64>,
}

/// Result of `events.subscribe`; and parameters of `lagged`, with `missed` set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The events that follow have greater numbers.
    pub seq: u64,
    /// All tunnels, sorted by name.
    pub tunnels: Vec<TunnelStatus>,
    /// All open prompts, oldest first.
    pub prompts: Vec<Prompt>,
    /// How many events this client has missed; `None` in the result of `events.subscribe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

/// Parameters of an `event` notification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number of the event; increases by one.
    pub seq: u64,
    /// When the event happened.
    pub at: Timestamp,
    /// What happened; its fields are beside `seq` and `at`.
    #[serde(flatten)]
    pub body: EventBody,
}

/// Kind of an event and what belongs to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventBody {
    /// A tunnel was added or has changed.
    Tunnel {
        /// Complete new state of the tunnel.
        tunnel: Box<TunnelStatus>,
    },
    /// A tunnel was removed from the configuration.
    Removed {
        /// Name of the removed tunnel.
        name: String,
    },
    /// A prompt was opened and can be answered.
    Prompt {
        /// The question with its fields.
        prompt: Prompt,
    },
    /// A prompt was answered or cancelled, or is no longer needed.
    PromptGone {
        /// Id of the prompt, from [`Prompt::id`].
        id: u64,
    },
    /// The configuration was read again.
    Config {
        /// Which tunnels changed, and the errors.
        report: ReloadReport,
    },
    /// The daemon is stopping; the connection will be closed.
    Bye,
    /// An event of a newer daemon.
    #[serde(other)]
    Unknown,
}
