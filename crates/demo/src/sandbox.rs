//! Everything that the demo runs: a temporary home with new keys, the SSH server, two web pages, and the daemon as a
//! child process. Dropping it removes the home and kills the daemon.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tunneld_proto::client::{Client, ClientError};
use tunneld_proto::endpoint::Endpoint;
use tunneld_proto::message::method;
use tunneld_proto::paths::Env;

use super::page;
use super::ssh_server::{PAGE_HOST, SshServer};

/// Longest wait for the start and for the end of the daemon.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between two attempts to connect to a daemon that has just been started.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);

/// Temporary home with the running servers and the daemon.
pub(crate) struct Sandbox {
    pub(crate) server: SshServer,
    /// Text of the configuration file, to be shown to the user.
    pub(crate) config: String,
    daemon: Child,
    endpoint: Endpoint,
    home: TempDir,
    _pages: JoinSet<()>,
}

impl Sandbox {
    /// Creates the keys, starts the servers, writes the configuration and starts the daemon.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("tunneld-demo-").tempdir();
        let home = home.context("cannot create a temporary home")?;
        let mut pages = JoinSet::new();
        let server_page = page::serve("Hello from behind the SSH server.", &mut pages).await?;
        let client_page = page::serve("Hello from this side of the tunnel.", &mut pages).await?;
        let (host_key, user_key) = (new_key()?, new_key()?);
        let host_line = host_key.public_key().to_openssh()?;
        let server = SshServer::start(host_key, user_key.public_key().clone(), server_page).await?;
        let files = Files::write(home.path(), &user_key, server.address(), &host_line)?;
        let config = configuration(&files, server.address(), client_page);
        std::fs::write(files.config.join("demo.toml"), &config)?;
        let env = Env::from_process();
        let endpoint = Endpoint::resolve(Some(&home.path().join("run/control.sock")), &env)?;
        let daemon = start_daemon(home.path(), &files.config, &endpoint)?;
        Ok(Self {
            server,
            config,
            daemon,
            endpoint,
            home,
            _pages: pages,
        })
    }

    /// Connects to the daemon as soon as it listens.
    ///
    /// # Errors
    /// An error if the daemon has ended, or does not listen within [`DAEMON_TIMEOUT`].
    pub(crate) async fn connect(&mut self) -> anyhow::Result<Client> {
        let connecting = async {
            loop {
                // The socket does not exist until the daemon has bound it.
                match Client::connect(&self.endpoint, "tunneld demo").await {
                    Err(ClientError::Connect(_)) => {}
                    other => return Ok(other?),
                }
                if let Some(code) = self.daemon.try_wait()? {
                    bail!("the daemon ended right after its start ({code})");
                }
                sleep(CONNECT_INTERVAL).await;
            }
        };
        timeout(DAEMON_TIMEOUT, connecting)
            .await
            .context("the daemon does not answer")?
    }

    /// Returns the start of a tunnelctl command line for this daemon.
    pub(crate) fn tunnelctl_command(&self) -> String {
        format!("tunnelctl --socket {}", self.endpoint)
    }

    /// Returns the last 12 lines of the daemon's log.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let skipped = lines.len().saturating_sub(12);
        let tail = lines.get(skipped..).unwrap_or_default();
        tail.join("\n")
    }

    /// Stops the daemon in order, and kills it if it does not end within [`DAEMON_TIMEOUT`].
    pub(crate) async fn stop(mut self) {
        if let Ok(mut client) = Client::connect(&self.endpoint, "tunneld demo").await {
            // The daemon gets the same Ctrl-C from the terminal, and may have ended already.
            let _ = client
                .call::<serde_json::Value>(method::SHUTDOWN, &serde_json::json!({}))
                .await;
        } else {
            let _ = self.daemon.start_kill();
        }
        if timeout(DAEMON_TIMEOUT, self.daemon.wait()).await.is_err() {
            let _ = self.daemon.kill().await;
        }
    }
}

fn new_key() -> anyhow::Result<PrivateKey> {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).context("cannot create a key")
}

/// Paths in the temporary home.
struct Files {
    config: PathBuf,
    key: PathBuf,
    known_hosts: PathBuf,
}

impl Files {
    fn write(
        home: &Path,
        user_key: &PrivateKey,
        server: SocketAddr,
        host_line: &str,
    ) -> anyhow::Result<Self> {
        let files = Self {
            config: home.join("config"),
            key: home.join("id_ed25519"),
            known_hosts: home.join("known_hosts"),
        };
        std::fs::create_dir(&files.config)?;
        // A key file that others can read is refused, as ssh does.
        let mut options = std::fs::File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let text = user_key.to_openssh(LineEnding::LF)?;
        std::io::Write::write_all(&mut options.open(&files.key)?, text.as_bytes())?;
        let line = format!("[{}]:{} {host_line}\n", server.ip(), server.port());
        std::fs::write(&files.known_hosts, line)?;
        Ok(files)
    }
}

fn configuration(files: &Files, server: SocketAddr, client_page: SocketAddr) -> String {
    let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    format!(
        "[tunnel.demo]\n\
         host = \"demo@{server}\"\n\
         local_forward = \"127.0.0.1:0:{PAGE_HOST}:80\"      # a free local port, to the page behind the server\n\
         remote_forward = \"127.0.0.1:0:{client_page}\"   # a port on the server, to a page on this side\n\
         dynamic_forward = \"127.0.0.1:0\"                # SOCKS: every host that the server can reach\n\
         identity_file = {key}\n\
         user_known_hosts_file = {known_hosts}\n\
         identities_only = true\n\
         identity_agent = \"none\"\n\
         ssh_config = false\n",
        key = quoted(&files.key),
        known_hosts = quoted(&files.known_hosts),
    )
}

fn start_daemon(home: &Path, config: &Path, endpoint: &Endpoint) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find the path of the running tunneld")?;
    let mut command = Command::new(program);
    command
        .arg("--config-dir")
        .arg(config)
        .arg("--socket")
        .arg(endpoint.path())
        .arg("--log-file")
        .arg(home.join("log"))
        .env("HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    // Variables that would make the demo depend on the user's environment.
    for name in [
        "SSH_AUTH_SOCK",
        "RUST_LOG",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "TUNNELD_CONFIG_DIR",
    ] {
        command.env_remove(name);
    }
    command.spawn().context("cannot start the daemon")
}
