//! A private Dropbear: the other SSH server that Debian ships. It needs root, for a home of its own.

use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::Process;
use crate::wait::LONG;

/// A running Dropbear.
pub struct Dropbear {
    dir: TempDir,
    port: u16,
    process: Process,
}

impl Dropbear {
    /// A server that accepts its user's key.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-dropbear").tempdir()?;
        let ssh = dir.path().join("home/.ssh");
        std::fs::create_dir_all(&ssh)?;
        crate::keys::generate(&dir.path().join("user_key"), "ed25519").await?;
        std::fs::copy(dir.path().join("user_key.pub"), ssh.join("authorized_keys"))?;
        let host = dir.path().join("host_key");
        let host = host.to_string_lossy();
        let made = crate::keys::run("dropbearkey", &["-t", "ed25519", "-f", &host]).await?;
        let public = made.lines().find(|line| line.starts_with("ssh-ed25519"));
        std::fs::write(dir.path().join("host_key.pub"), public.unwrap_or_default())?;
        let home = dir.path().join("home");
        let passwd = dir.path().join("passwd");
        let line = format!("root:x:0:0:root:{}:/bin/sh\n", home.display());
        std::fs::write(&passwd, line)?;
        let port = crate::ports::free()?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg("mount --bind \"$1\" /etc/passwd; shift; exec dropbear \"$@\"")
            .arg("sh")
            .arg(&passwd)
            .args(["-F", "-E", "-s", "-r", &host, "-p"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("-P")
            .arg(dir.path().join("pid"));
        let process = Process::start("dropbear", command)?;
        process.log().wait("Not backgrounding", LONG).await?;
        Ok(Self { dir, port, process })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
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
        std::fs::write(&known, format!("[127.0.0.1]:{} {key}\n", self.port))?;
        Ok(format!(
            "[tunnel.{name}]\nhost = \"root@127.0.0.1:{}\"\nidentity_file = \"{}\"\nuser_known_hosts_file = \"{}\"\n",
            self.port,
            self.user_key().display(),
            known.display()
        ))
    }
}

impl Drop for Dropbear {
    fn drop(&mut self) {
        for pid in crate::process::descendants(self.process.pid()) {
            let _ = crate::process::signal(pid, rustix::process::Signal::KILL);
        }
    }
}
