//! The envelopes, the calls with their parameters and results, and the events.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::RpcError;
use crate::status::{Prompt, TunnelStatus};

/// A request, or a notification where it has no id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Always "2.0".
    pub jsonrpc: String,
    /// Echoed in the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// The method's name.
    pub method: String,
    /// The method's parameters.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

/// A reply: a result or an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Always "2.0".
    pub jsonrpc: String,
    /// The request's id; null where none could be read.
    pub id: Value,
    /// The result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RpcError>,
}

/// The names of the methods.
pub mod method {
    /// The first call of every connection.
    pub const HELLO: &str = "hello";
    /// Starts tunnels.
    pub const UP: &str = "tunnel.up";
    /// Stops tunnels.
    pub const DOWN: &str = "tunnel.down";
    /// Stops and starts tunnels.
    pub const RESTART: &str = "tunnel.restart";
    /// Makes a tunnel on the spot.
    pub const ADD: &str = "tunnel.add";
    /// Removes a tunnel made on the spot.
    pub const REMOVE: &str = "tunnel.remove";
    /// Tells how tunnels stand.
    pub const STATUS: &str = "tunnel.status";
    /// Lists the waiting prompts.
    pub const PROMPT_LIST: &str = "prompt.list";
    /// Answers a prompt.
    pub const PROMPT_ANSWER: &str = "prompt.answer";
    /// Cancels a prompt.
    pub const PROMPT_CANCEL: &str = "prompt.cancel";
    /// Says that this client asks prompts of a person, so that no window need open for them.
    pub const PROMPT_ATTEND: &str = "prompt.attend";
    /// Reads the configuration again.
    pub const RELOAD: &str = "config.reload";
    /// The last log lines, and the coming ones.
    pub const LOG_TAIL: &str = "log.tail";
    /// Sets the log level.
    pub const LOG_SET_LEVEL: &str = "log.set_level";
    /// Turns this connection into a byte stream through a tunnel.
    pub const CONNECT: &str = "connect";
    /// Tells how the daemon stands.
    pub const DAEMON_STATUS: &str = "daemon.status";
    /// Stops the daemon.
    pub const SHUTDOWN: &str = "daemon.shutdown";
    /// A snapshot, then every change.
    pub const SUBSCRIBE: &str = "events.subscribe";
    /// The notification that carries an event.
    pub const EVENT: &str = "event";
    /// The notification that events were missed; a fresh snapshot follows.
    pub const LAGGED: &str = "lagged";
    /// The notification that carries a log line.
    pub const LOG: &str = "log";
}

/// `hello`'s parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who calls, such as `tunnelctl 0.1.0`.
    pub client: String,
    /// The protocol versions the client speaks.
    pub protocol: Vec<u32>,
}

/// `hello`'s result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The daemon's version.
    pub version: String,
    /// The protocol version chosen.
    pub protocol: u32,
    /// The daemon's process id.
    pub pid: u32,
    /// What the daemon can do beyond version 1's beginning.
    #[serde(default)]
    pub features: Vec<String>,
}

/// The parameters of `tunnel.up`, `tunnel.down` and `tunnel.restart`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Exact names (tunnelctl resolves globs and tags).
    pub names: Vec<String>,
    /// Whether the reply waits until each is up (or down), has failed, or the time is over.
    #[serde(default)]
    pub wait: bool,
    /// How long, in milliseconds; 30 s unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// The parameters of `tunnel.status` (none named: all) and the snapshot of every reply that tells of tunnels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusParams {
    /// Exact names; empty for all.
    #[serde(default)]
    pub names: Vec<String>,
}

/// A list of tunnels: the result of `tunnel.status`, `up`, `down`, `restart`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tunnels {
    /// In the order of their names.
    pub tunnels: Vec<TunnelStatus>,
}

/// `tunnel.add`'s parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// The new tunnel's name.
    pub name: String,
    /// The keys of `[tunnel.NAME]`.
    pub spec: Value,
    /// Whether it is written to the configuration.
    #[serde(default)]
    pub save: bool,
}

/// `tunnel.add`'s result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The tunnel's name.
    pub name: String,
    /// The file it was written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// `tunnel.remove`'s parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// The tunnel's name.
    pub name: String,
}

/// `prompt.list`'s result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompts {
    /// Oldest first.
    pub prompts: Vec<Prompt>,
}

/// `prompt.answer`'s parameters. Its `Debug` shows no answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The prompt's id.
    pub id: u64,
    /// One answer a field.
    pub answers: Vec<String>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// `prompt.cancel`'s parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The prompt's id.
    pub id: u64,
}

/// `prompt.attend`'s parameters: from then on, and until the connection ends or says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attend {
    /// The tunnels; all where there are none.
    #[serde(default)]
    pub names: Vec<String>,
}

/// `config.reload`'s result, and the body of the `config` event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Names that are new.
    pub added: Vec<String>,
    /// Names whose configuration changed.
    pub changed: Vec<String>,
    /// Names that are gone.
    pub removed: Vec<String>,
    /// Every fault found, each with file, line, column and excerpt; what it stands in keeps its last good state.
    pub errors: Vec<ConfigFault>,
}

/// One fault in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFault {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: Option<u64>,
    /// The column in characters, from 1.
    pub column: Option<u64>,
    /// What is wrong.
    pub message: String,
    /// The whole fault, excerpt and remedy included, as `tunnelctl check` prints it.
    pub rendered: String,
}

/// `log.tail`'s parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTail {
    /// Only lines of this tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only lines since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Whether coming lines follow as `log` notifications.
    #[serde(default)]
    pub follow: bool,
}

/// One log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// The tunnel it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// The text, with its fields, escaped.
    pub message: String,
}

/// `log.tail`'s result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLines {
    /// Oldest first.
    pub lines: Vec<LogLine>,
}

/// `log.set_level`'s parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetLevel {
    /// A filter in `RUST_LOG`'s grammar.
    pub filter: String,
}

/// `connect`'s parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// The tunnel.
    pub name: String,
    /// The host, resolved at the far end.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// `daemon.status`'s result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Since when it runs.
    pub since: Timestamp,
    /// The configuration directory.
    pub config_dir: String,
    /// The control socket.
    pub socket: String,
    /// The configuration's present faults.
    pub config_errors: Vec<ConfigFault>,
    /// Log lines dropped because the sink did not keep up.
    pub log_dropped: u64,
    /// Control clients now.
    pub clients: u64,
    /// What a person should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// `events.subscribe`'s parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The last event the client has seen: later ones that are still known follow the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seq: Option<u64>,
}

/// `events.subscribe`'s result, and the parameters of `lagged` with `missed` set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Events after this number follow.
    pub seq: u64,
    /// Every tunnel.
    pub tunnels: Vec<TunnelStatus>,
    /// Every waiting prompt.
    pub prompts: Vec<Prompt>,
    /// How many events this client has missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

/// The parameters of an `event` notification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventBody {
    /// A tunnel is new or has changed.
    Tunnel {
        /// How it stands now.
        tunnel: Box<TunnelStatus>,
    },
    /// A tunnel is gone.
    Removed {
        /// Its name.
        name: String,
    },
    /// A prompt waits.
    Prompt {
        /// The prompt.
        prompt: Prompt,
    },
    /// A prompt was answered, cancelled, or is moot.
    PromptGone {
        /// Its id.
        id: u64,
    },
    /// The configuration was read again.
    Config {
        /// What came of it.
        report: ReloadReport,
    },
    /// The daemon stops.
    Bye,
    /// An event of a newer daemon.
    #[serde(other)]
    Unknown,
}
