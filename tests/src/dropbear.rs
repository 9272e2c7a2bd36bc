//! A private Dropbear, the second SSH server that Debian packages.
//!
//! Dropbear reads the user's home and password from the system's database, so it runs in a mount namespace with
//! its own /etc/passwd and /etc/shadow. That needs root.

use std::path::PathBuf;

use anyhow::Result;

use crate::process::Process;
use crate::server_dir::ServerDir;
use crate::wait::LONG;

/// How the user of a [`Dropbear`] can log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropbearAuth {
    /// With a key.
    PublicKey,
    /// With a key or with this password.
    PublicKeyOrPassword(&'static str),
    /// With a key followed by this password.
    PublicKeyAndPassword(&'static str),
    /// With the method `none`: the account has an empty password.
    NoPassword,
}

/// A running Dropbear, killed with its sessions on drop.
pub struct Dropbear {
    dir: ServerDir,
    port: u16,
    process: Process,
}

impl Dropbear {
    /// Starts a server that accepts its user's key.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(DropbearAuth::PublicKey).await
    }

    /// Starts a server whose user can log in with `auth`.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_with(auth: DropbearAuth) -> Result<Self> {
        let dir = ServerDir::new("lab-dropbear").await?;
        let ssh = dir.path("home/.ssh");
        std::fs::create_dir_all(&ssh)?;
        std::fs::copy(dir.path("user_key.pub"), ssh.join("authorized_keys"))?;
        let host_key = dir.path("host_key").display().to_string();
        let args = ["-t", "ed25519", "-f", &host_key];
        let printed = crate::process::run_tool("dropbearkey", &args).await?;
        let public = printed.lines().find(|line| line.starts_with("ssh-ed25519"));
        std::fs::write(dir.path("host_key.pub"), public.unwrap_or_default())?;
        let home = dir.path("home").display().to_string();
        let (passwd, shadow) = (dir.path("passwd"), dir.path("shadow"));
        std::fs::write(&passwd, format!("root:x:0:0:root:{home}:/bin/sh\n"))?;
        let hash = match auth {
            // `!` matches no password.
            DropbearAuth::PublicKey => "!".to_owned(),
            DropbearAuth::PublicKeyOrPassword(password)
            | DropbearAuth::PublicKeyAndPassword(password) => {
                crate::keys::password_hash(password).await?
            }
            DropbearAuth::NoPassword => String::new(),
        };
        std::fs::write(&shadow, crate::keys::shadow_line("root", &hash))?;
        let port = crate::ports::free()?;
        let mounts = [(passwd, "/etc/passwd"), (shadow, "/etc/shadow")];
        let prefix = crate::process::bind_mount_prefix(&mounts);
        let mut command = crate::process::command_with_prefix(&prefix, "dropbear");
        command.args(["-F", "-E", "-r", &host_key]);
        match auth {
            DropbearAuth::PublicKey => command.arg("-s"),
            DropbearAuth::PublicKeyOrPassword(_) => &mut command,
            DropbearAuth::PublicKeyAndPassword(_) => command.arg("-t"),
            DropbearAuth::NoPassword => command.arg("-B"),
        };
        command
            .arg("-p")
            .arg(format!("127.0.0.1:{port}"))
            .arg("-P")
            .arg(dir.path("pid"));
        let process = Process::start("dropbear", command)?;
        process.log().wait("Not backgrounding", LONG).await?;
        Ok(Self { dir, port, process })
    }

    /// The path of the authorized_keys file, which the server reads at each login.
    pub fn authorized_keys(&self) -> PathBuf {
        self.dir.path("home/.ssh/authorized_keys")
    }

    /// The table `[tunnel.NAME]` that connects to this server; its host key is in known_hosts.
    ///
    /// # Errors
    /// If the known_hosts file cannot be written.
    pub fn tunnel_toml(&self, name: &str) -> Result<String> {
        self.dir.tunnel_toml(name, "root", self.port)
    }
}

impl Drop for Dropbear {
    fn drop(&mut self) {
        // Sessions are child processes that outlive the listener.
        for pid in crate::process::descendants(self.process.pid()) {
            let _ = crate::process::signal(pid, rustix::process::Signal::KILL);
        }
    }
}
