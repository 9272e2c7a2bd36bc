//! The folder of a server that has one host key and one user: keys, known_hosts and the tunnel that reaches it.
//!
//! [`crate::sshd::Sshd`] has several host keys and keeps its own folder.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

/// A temporary folder with the files `user_key`, `host_key` and their `.pub` halves.
pub(crate) struct ServerDir(TempDir);

impl ServerDir {
    /// Creates the folder and the user's key; the caller creates the host key, or [`Self::generate_host_key`] does.
    pub(crate) async fn new(prefix: &str) -> Result<Self> {
        let dir = Self(tempfile::Builder::new().prefix(prefix).tempdir()?);
        crate::keys::generate(&dir.user_key(), "ed25519").await?;
        Ok(dir)
    }

    /// Creates an Ed25519 host key in OpenSSH's format.
    pub(crate) async fn generate_host_key(&self) -> Result<()> {
        crate::keys::generate(&self.path("host_key"), "ed25519").await
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn user_key(&self) -> PathBuf {
        self.path("user_key")
    }

    /// Writes the known_hosts file and returns the table `[tunnel.NAME]` that connects to 127.0.0.1 as `user`.
    ///
    /// # Errors
    /// If the host key cannot be read or the known_hosts file cannot be written.
    pub(crate) fn tunnel_toml(&self, name: &str, user: &str, port: u16) -> Result<String> {
        let known_hosts = self.path("known_hosts");
        let host_key = std::fs::read_to_string(self.path("host_key.pub"))?;
        std::fs::write(&known_hosts, format!("[127.0.0.1]:{port} {host_key}\n"))?;
        let host = format!("{user}@127.0.0.1:{port}");
        Ok(tunnel_toml(name, &host, &self.user_key(), &known_hosts))
    }
}

/// The table `[tunnel.NAME]` for `host`, written as `USER@ADDRESS:PORT`.
pub(crate) fn tunnel_toml(name: &str, host: &str, user_key: &Path, known_hosts: &Path) -> String {
    format!(
        "[tunnel.{name}]\nhost = \"{host}\"\nidentity_file = \"{}\"\nuser_known_hosts_file = \"{}\"\n",
        user_key.display(),
        known_hosts.display()
    )
}
