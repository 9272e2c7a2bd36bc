//! A private asyncssh: a server written in Python, with nothing in common with OpenSSH or Dropbear.
//!
//! It asks for new keys as often as the test wants, which Dropbear cannot be told. Debian's asyncssh goes on with
//! channel data in the middle of the key exchanges that it began.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::Process;
use crate::wait::LONG;

/// Debian's own interpreter: another that comes first in PATH does not see Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

/// A running asyncssh server.
pub struct Asyncssh {
    dir: TempDir,
    port: u16,
    process: Process,
}

impl Asyncssh {
    /// A server that accepts its user's key and asks for new keys after it has sent `rekey_bytes`.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(rekey_bytes: usize) -> Result<Self> {
        Self::with(rekey_bytes, "").await
    }

    /// The same with these further lines of authorized keys. The user `none` needs no login, and every user may
    /// come with the password `lab pass` or, by keyboard-interactive, with it and then the code 123456. Of the user
    /// `intruder` it opens three channels that nobody asked for; the user `expired` has to take `new pass`.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn with(rekey_bytes: usize, authorized: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-asyncssh").tempdir()?;
        crate::keys::generate(&dir.path().join("user_key"), "ed25519").await?;
        crate::keys::generate(&dir.path().join("host_key"), "ed25519").await?;
        let keys = dir.path().join("authorized_keys");
        let own = std::fs::read_to_string(dir.path().join("user_key.pub"))?;
        std::fs::write(&keys, own + authorized)?;
        let mut command = Command::new(PYTHON);
        command
            .args(["-W", "ignore", "-u", "-c"])
            .arg(include_str!("asyncssh_server.py"))
            .arg(dir.path().join("host_key"))
            .arg(keys)
            .arg(rekey_bytes.to_string());
        let process = Process::start("asyncssh", command)?;
        let line = process.log().wait("listening on", LONG).await?;
        let port = line.rsplit(' ').next().context("no port")?.parse()?;
        Ok(Self { dir, port, process })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// How many times the server itself began a key exchange, the first of each connection included.
    pub fn key_exchanges(&self) -> usize {
        self.process.log().count_after(0, "Requesting key exchange")
    }

    /// How many key exchanges there were, whoever began them, the first of each connection included.
    pub fn all_key_exchanges(&self) -> usize {
        self.process.log().count_after(0, "Completed key exchange")
    }

    /// The user's private key.
    pub fn user_key(&self) -> PathBuf {
        self.dir.path().join("user_key")
    }

    /// The lines of `[tunnel.NAME]` that reach it, its host key known.
    ///
    /// # Errors
    /// Where the known_hosts file cannot be written.
    pub fn tunnel(&self, name: &str) -> Result<String> {
        let known = self.dir.path().join("known_hosts");
        let key = std::fs::read_to_string(self.dir.path().join("host_key.pub"))?;
        std::fs::write(&known, format!("[127.0.0.1]:{} {key}", self.port))?;
        Ok(format!(
            "[tunnel.{name}]\nhost = \"lab@127.0.0.1:{}\"\nidentity_file = \"{}\"\nuser_known_hosts_file = \"{}\"\n",
            self.port,
            self.user_key().display(),
            known.display()
        ))
    }
}
