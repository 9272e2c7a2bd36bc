//! A private ssh-agent of OpenSSH.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::Process;
use crate::wait::LONG;

/// A running ssh-agent, killed on drop.
pub struct Agent {
    dir: TempDir,
    process: Process,
}

impl Agent {
    /// Starts an agent without keys.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with_askpass("false").await
    }

    /// Starts an agent without keys that runs `askpass` to confirm the use of a key added with `ssh-add -c`.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_with_askpass(askpass: impl AsRef<std::ffi::OsStr>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-agent").tempdir()?;
        let mut command = Command::new("ssh-agent");
        command.env("SSH_ASKPASS", askpass);
        // Without `force` the agent uses SSH_ASKPASS only if DISPLAY is set.
        command.env("SSH_ASKPASS_REQUIRE", "force");
        command.arg("-D").arg("-a").arg(dir.path().join("agent"));
        let process = Process::start("ssh-agent", command)?;
        process.log().wait("SSH_AUTH_SOCK", LONG).await?;
        Ok(Self { dir, process })
    }

    /// The path of the agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// The agent's process, for signals.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Adds a private key file.
    ///
    /// # Errors
    /// If `ssh-add` fails.
    pub async fn add(&self, key: &Path) -> Result<()> {
        self.add_with_options(&[], key).await
    }

    /// Adds a private key file with these options of `ssh-add`.
    ///
    /// # Errors
    /// If `ssh-add` fails.
    pub async fn add_with_options(&self, options: &[&str], key: &Path) -> Result<()> {
        let output = Command::new("ssh-add")
            .arg("-q")
            .args(options)
            .arg(key)
            .env("SSH_AUTH_SOCK", self.socket())
            .output()
            .await
            .context("cannot run ssh-add")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ssh-add: {stderr}");
        Ok(())
    }
}
