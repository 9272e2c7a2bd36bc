//! A private Dropbear: the other SSH server that Debian ships. It needs root, for a home of its own.

use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use crate::process::Process;
use crate::wait::LONG;

/// By which way its user gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A key.
    Key,
    /// A key or this password.
    Password(&'static str),
    /// A key and this password.
    Both(&'static str),
    /// Nothing: the account has no password.
    Open,
}

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
        Self::with(Door::Key).await
    }

    /// A server with this door.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn with(door: Door) -> Result<Self> {
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
        let home = dir.path().join("home").display().to_string();
        let (passwd, shadow) = (dir.path().join("passwd"), dir.path().join("shadow"));
        std::fs::write(&passwd, format!("root:x:0:0:root:{home}:/bin/sh\n"))?;
        let hash = match door {
            Door::Key => "!".to_owned(),
            Door::Password(password) | Door::Both(password) => crate::keys::crypt(password).await?,
            Door::Open => String::new(),
        };
        std::fs::write(&shadow, format!("root:{hash}:19000:0:99999:7:::\n"))?;
        let port = crate::ports::free()?;
        let mounts = [(passwd, "/etc/passwd"), (shadow, "/etc/shadow")];
        let before = crate::process::mounting(&mounts);
        let mut command = crate::process::wrapped(&before, "dropbear");
        command.args(["-F", "-E", "-r", &host]);
        match door {
            Door::Key => command.arg("-s"),
            Door::Password(_) => &mut command,
            Door::Both(_) => command.arg("-t"),
            Door::Open => command.arg("-B"),
        };
        command
            .arg("-p")
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

    /// The keys that it accepts, a file of lines.
    pub fn authorized_keys(&self) -> PathBuf {
        self.dir.path().join("home/.ssh/authorized_keys")
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
