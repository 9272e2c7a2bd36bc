//! A tunnel as the rest of the daemon sees it: every value proved, every default filled in.

use std::path::PathBuf;
use std::time::Duration;

use crate::addr::{Endpoint, ListenAddr};

/// One `[tunnel.NAME]`, resolved: command line, TOML, ssh_config and defaults are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The name: `[A-Za-z0-9._-]{1,64}`, no leading `-`.
    pub name: String,
    /// The description.
    pub description: Option<String>,
    /// The tags.
    pub tags: Vec<String>,
    /// What a person should know; shown in `status`.
    pub notes: Vec<String>,
    /// Whom to reach and how.
    pub route: Route,
    /// The forwards, in the configuration's order.
    pub forwards: Vec<Forward>,
    /// How forwards behave.
    pub forwarding: Forwarding,
    /// When it runs.
    pub life: Lifecycle,
}

/// What it takes to make one SSH session: the part of a tunnel whose change needs a reconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destination as it was written: the alias that `%n` and HostKeyAlias are about.
    pub alias: String,
    /// The real host name or address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user.
    pub user: String,
    /// argv whose first line of stdout is the host; empty for none.
    pub host_command: Vec<String>,
    /// The address family.
    pub address_family: AddressFamily,
    /// The local address to dial from.
    pub bind_address: Option<String>,
    /// The interface whose address to dial from (BindInterface).
    pub bind_interface: Option<String>,
    /// All of DNS, TCP, key exchange and login, without the time that a person takes.
    pub connect_timeout: Duration,
    /// How the TCP connection is had.
    pub via: Via,
    /// How to log in.
    pub auth: Auth,
    /// Which host keys are trusted.
    pub host_keys: HostKeys,
    /// Which algorithms are offered.
    pub crypto: Crypto,
    /// How a dead peer is noticed.
    pub liveness: Liveness,
}

/// How the connection to the SSH port is had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// Straight.
    Direct,
    /// Over our own sessions, nearest first; each hop is a route of its own.
    Jump(Vec<Route>),
    /// Over another tunnel's live session (`proxy_jump = "tunnel:NAME"`).
    Tunnel(String),
    /// Over a command's stdin and stdout, given to `sh -c`, tokens not yet expanded.
    Command(String),
}

/// ssh_config's AddressFamily.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressFamily {
    /// Both.
    #[default]
    Any,
    /// IPv4 alone.
    Inet,
    /// IPv6 alone.
    Inet6,
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Key files, tilde and tokens expanded; the defaults of ssh where none was written.
    pub identity_files: Vec<PathBuf>,
    /// Whether the files were written, so that a missing one is an error worth telling.
    pub identity_files_explicit: bool,
    /// Whether agent keys beyond the files are left out.
    pub identities_only: bool,
    /// The agent.
    pub agent: Agent,
    /// Certificates beyond `KEY-cert.pub`.
    pub certificate_files: Vec<PathBuf>,
    /// The methods, best first: `publickey`, `keyboard-interactive`, `password`, …
    pub preferred: Vec<String>,
    /// How often a password is asked for.
    pub password_prompts: u32,
    /// argv whose first line of stdout is the password.
    pub password_command: Vec<String>,
    /// argv whose first line of stdout is the passphrase.
    pub passphrase_command: Vec<String>,
    /// Prompts of keyboard-interactive that a command answers, first match wins.
    pub answers: Vec<Answer>,
    /// PubkeyAcceptedAlgorithms as a resolved list; empty for the library's default.
    pub pubkey_algorithms: Vec<String>,
    /// Whether a key file that was unlocked is given to the agent.
    pub add_keys_to_agent: AddKeysToAgent,
}

/// AddKeysToAgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddKeysToAgent {
    /// Never.
    #[default]
    No,
    /// Once a person agrees.
    Ask,
    /// Always.
    Yes {
        /// Whether the agent confirms each use.
        confirm: bool,
        /// How long the agent keeps it; none for as long as it runs.
        lifetime: Option<Duration>,
    },
}

/// One of `answers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// A regular expression, proved, searched in the prompt.
    pub prompt: String,
    /// argv whose first line of stdout is the answer.
    pub command: Vec<String>,
}

/// IdentityAgent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// `$SSH_AUTH_SOCK`, looked at in each dial.
    Environment,
    /// A variable's value, looked at in each dial (`$NAME`).
    Variable(String),
    /// A socket.
    Socket(PathBuf),
    /// None.
    None,
}

/// Which host keys are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKeys {
    /// What to do with an unknown one.
    pub checking: HostKeyChecking,
    /// Read, and the first is written.
    pub user_files: Vec<PathBuf>,
    /// Read only.
    pub global_files: Vec<PathBuf>,
    /// RevokedHostKeys.
    pub revoked_files: Vec<PathBuf>,
    /// KnownHostsCommand, tokens not yet expanded.
    pub command: Option<String>,
    /// The name to look up instead.
    pub alias: Option<String>,
    /// Whether new entries bear hashed names.
    pub hash: bool,
    /// Whether further keys that the server proves are written down.
    pub update: UpdateHostKeys,
    /// HostKeyAlgorithms as a resolved list; empty for the library's default.
    pub algorithms: Vec<String>,
}

/// StrictHostKeyChecking; a changed key is refused by all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeyChecking {
    /// An unknown key is asked about.
    Ask,
    /// An unknown key is refused.
    Yes,
    /// An unknown key is trusted and written down.
    AcceptNew,
}

/// What the note begins with on a tunnel whose file has errors.
pub const STALE: &str = "stale: ";

/// UpdateHostKeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateHostKeys {
    /// Never.
    No,
    /// Silently.
    Yes,
    /// Once a person agrees.
    Ask,
}

/// Which algorithms are offered; an empty list means the library's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Crypto {
    /// Ciphers, best first.
    pub ciphers: Vec<String>,
    /// MACs, best first.
    pub macs: Vec<String>,
    /// Key exchange methods, best first.
    pub kex: Vec<String>,
    /// Whether zlib@openssh.com is asked for.
    pub compression: bool,
    /// RekeyLimit.
    pub rekey: Rekey,
}

/// RekeyLimit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rekey {
    /// After so many bytes; none for the cipher's own limit.
    pub bytes: Option<u64>,
    /// After so long.
    pub time: Option<Duration>,
}

/// How a dead peer is noticed, and how soon the next attempt comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Liveness {
    /// ServerAliveInterval; none for off.
    pub interval: Option<Duration>,
    /// ServerAliveCountMax.
    pub count_max: u32,
    /// TCPKeepAlive.
    pub tcp_keep_alive: bool,
    /// The first delay of the backoff.
    pub backoff_initial: Duration,
    /// The longest delay of the backoff.
    pub backoff_max: Duration,
}

/// One forward.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Forward {
    /// ssh -L.
    Local {
        /// Where it listens, here.
        listen: ListenAddr,
        /// Where it leads, there.
        to: Endpoint,
    },
    /// ssh -R.
    Remote {
        /// Where it listens, there.
        listen: ListenAddr,
        /// Where it leads, here; none for reverse SOCKS.
        to: Option<Endpoint>,
    },
    /// ssh -D.
    Dynamic {
        /// Where it listens, here.
        listen: ListenAddr,
    },
}

/// How the forwards of one tunnel behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// Whether a forward that fails ends the session.
    pub exit_on_failure: bool,
    /// StreamLocalBindUnlink.
    pub unlink_socket: bool,
    /// StreamLocalBindMask.
    pub socket_mask: u32,
    /// PermitRemoteOpen: where reverse SOCKS may lead; empty for anywhere.
    pub permit_remote_open: Vec<String>,
}

/// When a tunnel runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    /// Whether it comes up with the daemon.
    pub autostart: bool,
    /// How long a new connection is kept waiting for the session; zero closes it at once.
    pub hold: Duration,
    /// argv run when a prompt waits; empty for none.
    pub on_needs_input: Vec<String>,
}

/// `[daemon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// The log filter, in `RUST_LOG`'s grammar.
    pub log: Option<String>,
    /// How many tunnels connect at once.
    pub max_concurrent_connects: usize,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            log: None,
            max_concurrent_connects: 16,
        }
    }
}
