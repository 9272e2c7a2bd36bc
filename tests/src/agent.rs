//! A private ssh-agent.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::Process;
use crate::wait::LONG;

/// A running agent.
pub struct Agent {
    dir: TempDir,
    process: Process,
}

impl Agent {
    /// An agent without keys.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start() -> Result<Self> {
        Self::with_askpass("false").await
    }

    /// An agent without keys, whose SSH_ASKPASS asks for consent to the use of a key.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn with_askpass(askpass: impl AsRef<std::ffi::OsStr>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-agent").tempdir()?;
        let mut command = Command::new("ssh-agent");
        command.env("SSH_ASKPASS", askpass);
        command.env("SSH_ASKPASS_REQUIRE", "force");
        command.arg("-D").arg("-a").arg(dir.path().join("agent"));
        let process = Process::start("ssh-agent", command)?;
        process.log().wait("SSH_AUTH_SOCK", LONG).await?;
        Ok(Self { dir, process })
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Takes a key in.
    ///
    /// # Errors
    /// Where the agent declines it.
    pub async fn add(&self, key: &Path) -> Result<()> {
        self.add_with(&[], key).await
    }

    /// Takes a key in with these options of ssh-add.
    ///
    /// # Errors
    /// Where the agent declines it.
    pub async fn add_with(&self, options: &[&str], key: &Path) -> Result<()> {
        let out = Command::new("ssh-add")
            .arg("-q")
            .args(options)
            .arg(key)
            .env("SSH_AUTH_SOCK", self.socket())
            .output()
            .await
            .context("cannot run ssh-add")?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "ssh-add: {said}");
        Ok(())
    }
}
