//! A private asyncssh server: an implementation in Python that shares no code with OpenSSH or Dropbear.
//!
//! Unlike with Dropbear, the rekey limit can be set. Debian's asyncssh keeps sending channel data during the
//! key exchanges that it starts itself, which RFC 4253 §7.1 forbids.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::process::Process;
use crate::server_dir::ServerDir;
use crate::wait::LONG;

/// Debian's own interpreter: another one that comes first in PATH does not have Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

/// A running asyncssh server, killed on drop.
pub struct Asyncssh {
    dir: ServerDir,
    port: u16,
    process: Process,
}

impl Asyncssh {
    /// Starts a server that accepts its user's key and rekeys after it has sent `rekey_bytes`.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(rekey_bytes: usize) -> Result<Self> {
        Self::start_with(rekey_bytes, "").await
    }

    /// Same as [`Self::start`], with additional lines of authorized_keys.
    ///
    /// The server accepts every user name with the password `lab pass`, or by keyboard-interactive with that
    /// password and then the code `123456`. Three names are special: `none` needs no authentication, `expired`
    /// must change the password to `new pass`, and for `intruder` the server opens three unrequested channels.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_with(rekey_bytes: usize, authorized_keys: &str) -> Result<Self> {
        let dir = ServerDir::new("lab-asyncssh").await?;
        dir.generate_host_key().await?;
        let authorized_file = dir.path("authorized_keys");
        let user_key = std::fs::read_to_string(dir.path("user_key.pub"))?;
        std::fs::write(&authorized_file, user_key + authorized_keys)?;
        let mut command = Command::new(PYTHON);
        command
            .args(["-W", "ignore", "-u", "-c"])
            .arg(include_str!("asyncssh_server.py"))
            .arg(dir.path("host_key"))
            .arg(authorized_file)
            .arg(rekey_bytes.to_string());
        let process = Process::start("asyncssh", command)?;
        let line = process.log().wait("listening on", LONG).await?;
        let port = line.rsplit(' ').next().context("no port")?.parse()?;
        Ok(Self { dir, port, process })
    }

    /// The server's process, for signals and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The number of key exchanges that either side started, including the first one of each connection.
    pub fn key_exchanges(&self) -> usize {
        self.process.log().count_after(0, "Completed key exchange")
    }

    /// The path of the user's private key.
    pub fn user_key(&self) -> PathBuf {
        self.dir.user_key()
    }

    /// The table `[tunnel.NAME]` that connects to this server; its host key is in known_hosts.
    ///
    /// # Errors
    /// If the known_hosts file cannot be written.
    pub fn tunnel_toml(&self, name: &str) -> Result<String> {
        self.dir.tunnel_toml(name, "lab", self.port)
    }
}
