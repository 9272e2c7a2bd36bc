//! A tunnel as the daemon uses it: every value checked and typed, every default filled in.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::addr::{Endpoint, ListenAddr};
use crate::proxy_for::ProxyPattern;

/// One `[tunnel.NAME]`, resolved: command line, TOML, ssh_config and defaults are merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The name: `[A-Za-z0-9._-]{1,64}`, no leading `-`.
    pub name: String,
    /// The text for `status`; `None` if the configuration has none.
    pub description: Option<String>,
    /// The names that `--tag` matches.
    pub tags: Vec<String>,
    /// What the user should know about the configuration; [`Tunnel::status_notes`] has all that `status` shows.
    pub notes: Vec<String>,
    /// The file whose last good state this is, because its present text has errors; `None` if it has none.
    pub stale_file: Option<PathBuf>,
    /// How the session is made.
    pub route: Route,
    /// The forwards, in the configuration's order.
    pub forwards: Vec<Forward>,
    /// How the forwards behave: options that all of them share.
    pub forwarding: Forwarding,
    /// What the proxy of the tunnel's dynamic forward is for, in the configuration's order; empty for none.
    pub proxy_for: Vec<ProxyPattern>,
    /// When the tunnel runs and waits.
    pub life: Lifecycle,
}

impl Tunnel {
    /// The notes that `status` shows: the tunnel's own, then the one about a file with errors.
    pub fn status_notes(&self) -> Vec<String> {
        let stale = self.stale_file.as_ref().map(|path| {
            format!(
                "stale: {} has errors; the tunnel keeps its last good configuration",
                path.display()
            )
        });
        self.notes.iter().cloned().chain(stale).collect()
    }
}

/// All that a dial needs to make one SSH session. `diff` decides which of these fields need a new session when they
/// change, and which are read at the next dial only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destination as it is written in the configuration: the name for `%n` and for HostKeyAlias's default.
    pub alias: String,
    /// The host name or address to dial.
    pub host: String,
    /// The SSH port to dial, 1 to 65535.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// argv whose first line of stdout is the host to dial; empty for none.
    pub host_command: Vec<String>,
    /// Which addresses of the host are tried.
    pub address_family: AddressFamily,
    /// The local address to dial from; `None` for the kernel's choice.
    pub bind_address: Option<String>,
    /// The interface whose address to dial from (BindInterface); `None` for the kernel's choice.
    pub bind_interface: Option<String>,
    /// Limit for DNS, TCP and key exchange together, without the time spent waiting for a person.
    pub connect_timeout: Duration,
    /// Limit for the login, without the time spent waiting for a person at this machine. The time in which the server
    /// waits for a phone counts.
    pub login_timeout: Duration,
    /// What carries the connection to the SSH port.
    pub via: Via,
    /// The identities and methods to log in with.
    pub auth: Auth,
    /// Which host keys are trusted.
    pub host_keys: HostKeys,
    /// Which algorithms are offered in the key exchange.
    pub crypto: Crypto,
    /// How a dead peer is detected, and how long to wait before the next attempt.
    pub liveness: Liveness,
}

/// What carries the connection to the SSH port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// A TCP connection to the host.
    Direct,
    /// Sessions with jump hosts, nearest first; each hop has a separate route.
    Jump(Vec<Route>),
    /// The live session of another tunnel (`proxy_jump = "tunnel:NAME"`).
    Tunnel(String),
    /// The stdin and stdout of a command, which `sh -c` runs; its tokens are not yet expanded.
    Command(String),
}

/// ssh_config's AddressFamily: which addresses of a host are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressFamily {
    /// IPv4 and IPv6 addresses.
    #[default]
    Any,
    /// IPv4 addresses only.
    Inet,
    /// IPv6 addresses only.
    Inet6,
}

/// The identities and methods to log in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Key files, tilde and tokens expanded; ssh's defaults if the configuration has none.
    pub identity_files: Vec<PathBuf>,
    /// Whether the configuration names the files, so that a missing one is reported.
    pub identity_files_explicit: bool,
    /// Whether agent keys other than those of the files are left out.
    pub identities_only: bool,
    /// The agent to ask for keys and signatures.
    pub agent: Agent,
    /// Certificates in addition to `KEY-cert.pub`.
    pub certificate_files: Vec<PathBuf>,
    /// The methods, in the order they are tried: `publickey`, `keyboard-interactive`, `password`.
    pub preferred: Vec<String>,
    /// How many times a password is asked for, 0 to 100.
    pub password_prompts: u32,
    /// argv whose first line of stdout is the password; empty for none.
    pub password_command: Vec<String>,
    /// argv whose first line of stdout is the passphrase; empty for none.
    pub passphrase_command: Vec<String>,
    /// Prompts of keyboard-interactive that a command answers; the first match is used.
    pub answers: Vec<Answer>,
    /// PubkeyAcceptedAlgorithms as a resolved list; empty for the SSH core's default.
    pub pubkey_algorithms: Vec<String>,
    /// Whether a key file that was decrypted is added to the agent.
    pub add_keys_to_agent: AddKeysToAgent,
}

/// ssh_config's AddKeysToAgent: whether a key that was decrypted is added to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddKeysToAgent {
    /// No key is added.
    #[default]
    Never,
    /// A key is added if the user confirms it.
    Ask,
    /// Every decrypted key is added.
    Always {
        /// Whether the agent asks the user at each use of the key.
        confirm: bool,
        /// How long the agent keeps the key; `None` for as long as the agent runs.
        lifetime: Option<Duration>,
    },
}

/// One of `answers`: a command for the prompts that match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Searched in the text of the prompt.
    pub prompt: PromptPattern,
    /// argv whose first line of stdout is the answer.
    pub command: Vec<String>,
}

/// A compiled regular expression for the prompts of keyboard-interactive. Two are equal if their texts are.
#[derive(Debug, Clone)]
pub struct PromptPattern(regex_lite::Regex);

impl PromptPattern {
    /// Compiles a regular expression.
    ///
    /// # Errors
    /// What is wrong with its syntax.
    pub fn new(text: &str) -> Result<Self, regex_lite::Error> {
        regex_lite::Regex::new(text).map(Self)
    }

    /// Whether the pattern is found anywhere in `prompt`.
    pub fn is_match(&self, prompt: &str) -> bool {
        self.0.is_match(prompt)
    }
}

impl PartialEq for PromptPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for PromptPattern {}

/// ssh_config's IdentityAgent: where the socket of the SSH agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// The socket in `$SSH_AUTH_SOCK`, looked up at each dial.
    Environment,
    /// The socket in another variable (`$NAME`), looked up at each dial.
    Variable(String),
    /// The path of the socket.
    Socket(PathBuf),
    /// No agent is used.
    None,
}

/// Which host keys are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKeys {
    /// What happens with an unknown key.
    pub checking: HostKeyChecking,
    /// Files with known keys; new keys are written to the first.
    pub user_files: Vec<PathBuf>,
    /// Files with known keys that are never written.
    pub global_files: Vec<PathBuf>,
    /// RevokedHostKeys: files with keys that are never trusted.
    pub revoked_files: Vec<PathBuf>,
    /// KnownHostsCommand, its tokens not yet expanded; `None` for no command.
    pub command: Option<String>,
    /// The name to look up instead of the host (HostKeyAlias); `None` to look up the host.
    pub alias: Option<String>,
    /// Whether host names in new entries are hashed.
    pub hash: bool,
    /// Whether further keys that the server proves it has are saved.
    pub update: UpdateHostKeys,
    /// HostKeyAlgorithms as a resolved list; empty for the SSH core's default.
    pub algorithms: Vec<String>,
    /// RequiredRSASize: bits that an RSA key, of the server or the user, must have at least. `None` for the SSH core's
    /// default, and for any key of the user.
    pub min_rsa_bits: Option<u32>,
}

/// ssh_config's StrictHostKeyChecking: what happens with an unknown key. A changed key is always refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeyChecking {
    /// The user is asked whether to trust it.
    Ask,
    /// It is refused, without asking.
    Strict,
    /// It is trusted and saved.
    AcceptNew,
}

/// ssh_config's UpdateHostKeys: whether further keys that the server proves it has are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateHostKeys {
    /// They are ignored, not saved.
    Never,
    /// They are saved without asking.
    Always,
    /// They are saved if the user confirms them.
    Ask,
}

/// Which algorithms are offered; an empty list means the SSH core's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Crypto {
    /// Ciphers, in order of preference.
    pub ciphers: Vec<String>,
    /// Message authentication codes, in order of preference.
    pub macs: Vec<String>,
    /// Key exchange methods, in order of preference.
    pub kex: Vec<String>,
    /// Whether zlib@openssh.com is offered.
    pub compression: bool,
    /// When new session keys are agreed on (RekeyLimit).
    pub rekey: Rekey,
}

/// ssh_config's RekeyLimit: when new session keys are agreed on (RFC 4253 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rekey {
    /// After this many bytes, at least 16; `None` for the cipher's own limit.
    pub bytes: Option<u64>,
    /// After this time, at least one second; `None` for no limit.
    pub time: Option<Duration>,
}

/// How a dead peer is detected, and how long to wait before the next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Liveness {
    /// ServerAliveInterval: how long the server may be silent before a keepalive is sent; `None` for no keepalives.
    pub interval: Option<Duration>,
    /// ServerAliveCountMax: unanswered keepalives after which the session counts as lost, 1 to 1000.
    pub count_max: u32,
    /// TCPKeepAlive: whether the kernel probes the connection.
    pub tcp_keep_alive: bool,
    /// The delay before the second attempt.
    pub backoff_initial: Duration,
    /// The longest delay between two attempts, at least `backoff_initial`.
    pub backoff_max: Duration,
}

/// One forward: a listener on one side and its target on the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Forward {
    /// From this machine to the server (`ssh -L`).
    Local {
        /// Where it listens, on this machine.
        listen: ListenAddr,
        /// What the server connects to.
        to: Endpoint,
    },
    /// From the server to this machine (`ssh -R`).
    Remote {
        /// Where it listens, on the server.
        listen: ListenAddr,
        /// What this machine connects to; `None` for reverse SOCKS, where the client names the target.
        to: Option<Endpoint>,
    },
    /// A SOCKS proxy on this machine (`ssh -D`).
    Dynamic {
        /// Where the SOCKS proxy listens, on this machine.
        listen: ListenAddr,
    },
}

/// The forward under its key's name, for messages.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { listen, to } => write!(f, "local_forward {listen} to {to}"),
            Self::Remote {
                listen,
                to: Some(to),
            } => write!(f, "remote_forward {listen} to {to}"),
            Self::Remote { listen, to: None } => write!(f, "remote_forward {listen}"),
            Self::Dynamic { listen } => write!(f, "dynamic_forward {listen}"),
        }
    }
}

/// The default of [`Forwarding::max_connections`].
pub const DEFAULT_MAX_CONNECTIONS: u32 = 1024;

/// How the forwards of one tunnel behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// ExitOnForwardFailure: whether a forward that fails ends the session.
    pub exit_on_failure: bool,
    /// StreamLocalBindUnlink: whether an existing socket file is removed before listening.
    pub unlink_socket: bool,
    /// StreamLocalBindMask: the umask of socket files.
    pub socket_mask: u32,
    /// How many connections of one forward may be open at a time, held ones included; at least 1.
    pub max_connections: u32,
    /// PermitRemoteOpen: the `host:port` targets that reverse SOCKS may connect to; empty for any target.
    pub permit_remote_open: Vec<String>,
    /// The login that clients of the dynamic forwards must send; `None` if they need none.
    pub proxy_login: Option<ProxyLogin>,
}

/// The login of the proxy that dynamic forwards are: SOCKS5 user and password, HTTP Basic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyLogin {
    /// The user name, 1 to 255 bytes without `:`.
    pub user: String,
    /// argv whose first line of stdout is the password; not empty.
    pub password_command: Vec<String>,
}

/// When a tunnel runs and what it does while it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    /// Whether it starts with the daemon.
    pub autostart: bool,
    /// How long a new connection waits for a lost session to come back; zero resets it at once.
    pub hold: Duration,
    /// argv that runs when a prompt waits; empty for none.
    pub on_needs_input: Vec<String>,
}

/// `[daemon]`: settings of the daemon as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// The log filter, in the grammar of `log_filter`; `None` for the daemon's default.
    pub log: Option<String>,
    /// How many tunnels log in at the same time, 1 to 1024. Dials that only wait do not count.
    pub max_concurrent_connects: usize,
    /// Where `/proxy.pac`, health and metrics are served; `None` for nowhere.
    pub http_listen: Option<ListenAddr>,
    /// Whether `http_listen` serves `/metrics`.
    pub metrics: bool,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            log: None,
            max_concurrent_connects: 16,
            http_listen: None,
            metrics: false,
        }
    }
}
