//! A private OpenSSH server with its own keys, port, configuration and log. The user who runs the tests logs in.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{self, Log, Process};
use crate::server_dir;
use crate::wait::LONG;

/// The options of an [`Sshd`].
#[derive(Debug, Clone)]
pub struct SshdOptions {
    /// Lines of sshd_config that precede the lab's own, because the first value of a keyword counts. `Match` blocks
    /// must be last: they are appended after the lab's own lines.
    pub config_lines: Vec<String>,
    /// The types of its host keys, as `ssh-keygen -t` takes them.
    pub host_keys: Vec<String>,
    /// The options before the user's key in authorized_keys.
    pub key_options: String,
    /// The type of the user's key, as `ssh-keygen -t` takes it.
    pub user_key: String,
    /// Whether it also listens on `::1`.
    pub ipv6: bool,
    /// The user's password, empty for none: the server runs with its own /etc/shadow, which needs root. `None` leaves
    /// the machine's.
    pub password: Option<String>,
    /// The content of /etc/pam.d/sshd for this server; effective only with a `password`. `None` leaves the machine's.
    pub pam_service: Option<String>,
    /// The command prefix that runs the server, such as an entry into a network namespace.
    pub command_prefix: Vec<String>,
    /// The IPv4 address that it listens on.
    pub listen_ip: String,
    /// Whether it is the OpenSSH 10 of Debian 13 instead of the machine's. Root is required.
    pub is_openssh10: bool,
}

impl Default for SshdOptions {
    fn default() -> Self {
        Self {
            config_lines: Vec::new(),
            host_keys: vec!["ed25519".to_owned()],
            key_options: String::new(),
            user_key: "ed25519".to_owned(),
            ipv6: false,
            password: None,
            pam_service: None,
            command_prefix: Vec::new(),
            listen_ip: "127.0.0.1".to_owned(),
            is_openssh10: false,
        }
    }
}

impl SshdOptions {
    /// The options of a server that requires the user's key and then `password`. Root is required.
    pub fn key_and_password(password: &str) -> Self {
        Self {
            config_lines: vec![
                "AuthenticationMethods publickey,password".into(),
                "PasswordAuthentication yes".into(),
            ],
            password: Some(password.into()),
            ..Self::default()
        }
    }
}

/// A server and the key that its user logs in with. It is killed with its sessions on drop.
pub struct Sshd {
    dir: TempDir,
    port: u16,
    /// `None` while it is stopped.
    process: Option<Process>,
    options: SshdOptions,
}

impl Sshd {
    /// Starts a server with the default options.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(SshdOptions::default()).await
    }

    /// Starts a server with these additional lines of sshd_config.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_with_lines(lines: &[&str]) -> Result<Self> {
        let config_lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Self::start_with(SshdOptions {
            config_lines,
            ..SshdOptions::default()
        })
        .await
    }

    /// Starts a server with these options.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_with(mut options: SshdOptions) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-sshd").tempdir()?;
        let user_key = dir.path().join("user_key");
        crate::keys::generate(&user_key, &options.user_key).await?;
        let public = std::fs::read_to_string(user_key.with_extension("pub"))?;
        let line = format!("{} {public}", options.key_options);
        std::fs::write(dir.path().join("authorized_keys"), line.trim_start())?;
        for kind in &options.host_keys {
            crate::keys::generate(&dir.path().join(format!("host_{kind}")), kind).await?;
        }
        #[cfg(target_os = "linux")]
        if options.is_openssh10 {
            let prefix = crate::debian13::command_prefix()?;
            options.command_prefix.extend(prefix);
        }
        let mut sshd = Self {
            dir,
            port: 0,
            process: None,
            options,
        };
        // Another process may take the port between the choice and the bind.
        for _ in 0..5 {
            sshd.port = crate::ports::free()?;
            if sshd.start_again().await.is_ok() {
                return Ok(sshd);
            }
        }
        sshd.port = crate::ports::free()?;
        sshd.start_again().await?;
        Ok(sshd)
    }

    /// Starts it after [`Sshd::stop`], on the same port, with the current options and files.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_again(&mut self) -> Result<()> {
        let config = self.dir.path().join("sshd_config");
        std::fs::write(&config, self.config())?;
        if rustix::process::geteuid().is_root() {
            // sshd as root refuses to start without its privilege separation folder.
            std::fs::create_dir_all("/run/sshd")?;
        }
        let mut command = match &self.options.password {
            None => process::command_with_prefix(&self.options.command_prefix, program()?),
            Some(password) => self.command_with_password(password).await?,
        };
        command.args(["-D", "-e", "-f"]).arg(&config);
        let process = Process::start("sshd", command)?;
        process.log().wait("Server listening on", LONG).await?;
        if self.options.ipv6 {
            process.log().wait("Server listening on ::1", LONG).await?;
        }
        self.process = Some(process);
        Ok(())
    }

    /// The command that runs sshd in a mount namespace with its own /etc/shadow.
    async fn command_with_password(&self, password: &str) -> Result<Command> {
        let (user, dir) = (current_user()?, self.dir.path());
        let mut mounts = vec![(dir.join("shadow"), "/etc/shadow")];
        let hash = crate::keys::password_hash(password).await?;
        let line = crate::keys::shadow_line(&user, &hash);
        std::fs::write(dir.join("shadow"), line)?;
        if let Some(pam) = &self.options.pam_service {
            std::fs::write(dir.join("pam"), pam)?;
            mounts.push((dir.join("pam"), "/etc/pam.d/sshd"));
        }
        let prefix = [
            self.options.command_prefix.clone(),
            process::bind_mount_prefix(&mounts),
        ];
        Ok(process::command_with_prefix(&prefix.concat(), program()?))
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        let lines = &self.options.config_lines;
        let before_match = lines.iter().take_while(|line| !line.starts_with("Match"));
        let (first, match_blocks) = lines.split_at(before_match.count());
        let mut text = first.join("\n");
        // DEBUG1: tests look for lines of that level. MaxStartups: tests open many connections at once.
        let _ = write!(
            text,
            "\nListenAddress {ip}:{port}\nPidFile none\nAuthorizedKeysFile {dir}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nLogLevel DEBUG1\nGatewayPorts clientspecified\n\
             MaxStartups 200:30:300\nUseDNS no\nPrintMotd no\nPrintLastLog no\n",
            ip = self.options.listen_ip,
            port = self.port
        );
        if self.options.ipv6 {
            let _ = writeln!(text, "ListenAddress [::1]:{}", self.port);
        }
        for kind in &self.options.host_keys {
            let _ = writeln!(text, "HostKey {dir}/host_{kind}");
        }
        text + &match_blocks.join("\n") + "\n"
    }

    /// The address that it listens on, if that is the default address 127.0.0.1.
    pub fn addr(&self) -> SocketAddr {
        crate::ports::local(self.port)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its folder: keys, `authorized_keys` and `sshd_config`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of the user's private key; the public one is beside it, with `.pub`.
    pub fn user_key(&self) -> PathBuf {
        self.dir.path().join("user_key")
    }

    /// The path of the public host key of type `kind`.
    pub fn host_key(&self, kind: &str) -> PathBuf {
        self.dir.path().join(format!("host_{kind}.pub"))
    }

    /// The options, for changes before [`Sshd::start_again`].
    pub fn options_mut(&mut self) -> &mut SshdOptions {
        &mut self.options
    }

    /// The process of the listener.
    ///
    /// # Errors
    /// If the server is stopped.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("this sshd is stopped")
    }

    /// The log of the listener and all its sessions.
    ///
    /// # Errors
    /// If the server is stopped.
    pub fn log(&self) -> Result<&Log> {
        Ok(self.process()?.log())
    }

    /// The known_hosts lines of its current host keys, for a client that connects to `port` of its address.
    ///
    /// # Errors
    /// If a key cannot be read.
    pub fn known_hosts_lines(&self, port: u16) -> Result<String> {
        let mut text = String::new();
        for kind in &self.options.host_keys {
            let key = std::fs::read_to_string(self.host_key(kind))?;
            let key = key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "[{}]:{port} {key}", self.options.listen_ip);
        }
        Ok(text)
    }

    /// The table `[tunnel.NAME]` that connects to this server; its host keys are in known_hosts.
    ///
    /// # Errors
    /// If the known_hosts file cannot be written.
    pub fn tunnel_toml(&self, name: &str) -> Result<String> {
        self.tunnel_toml_at(name, self.port)
    }

    /// Same as [`Self::tunnel_toml`], through another port of its address, such as a link's. The known_hosts file is
    /// `known_hosts_PORT` in [`Self::dir`].
    ///
    /// # Errors
    /// If the known_hosts file cannot be written.
    pub fn tunnel_toml_at(&self, name: &str, port: u16) -> Result<String> {
        let known_hosts = self.dir.path().join(format!("known_hosts_{port}"));
        std::fs::write(&known_hosts, self.known_hosts_lines(port)?)?;
        let host = format!("{}@{}:{port}", current_user()?, self.options.listen_ip);
        Ok(server_dir::tunnel_toml(
            name,
            &host,
            &self.user_key(),
            &known_hosts,
        ))
    }

    /// The `Host` block of an ssh_config by which `alias` is this server; its host keys are in known_hosts.
    ///
    /// # Errors
    /// If the known_hosts file cannot be written.
    pub fn ssh_config_host(&self, alias: &str) -> Result<String> {
        let known_hosts = self.dir.path().join("known_hosts_alias");
        std::fs::write(&known_hosts, self.known_hosts_lines(self.port)?)?;
        Ok(format!(
            "Host {alias}\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  IdentityFile {key}\n  \
             UserKnownHostsFile {known_hosts}\n  IdentitiesOnly yes\n",
            port = self.port,
            user = current_user()?,
            key = self.user_key().display(),
            known_hosts = known_hosts.display(),
        ))
    }

    /// The ids of the processes of its sessions; empty if it is stopped.
    pub fn session_pids(&self) -> Vec<u32> {
        let pid = self.process.as_ref().map(Process::pid);
        pid.map(process::descendants).unwrap_or_default()
    }

    /// Sends `signal` to every process of its sessions, but not to the listener. Returns the number of processes.
    pub fn signal_sessions(&self, signal: Signal) -> usize {
        let sent = |pid: &u32| process::signal(*pid, signal).is_ok();
        self.session_pids()
            .into_iter()
            .filter(|pid| sent(pid))
            .count()
    }

    /// Kills every session; the listener keeps running.
    ///
    /// # Errors
    /// If there is no session.
    pub fn kill_sessions(&self) -> Result<()> {
        match self.signal_sessions(Signal::KILL) {
            0 => bail!("there was no session to kill"),
            _ => Ok(()),
        }
    }

    /// Sends SIGSTOP to every session: it is silent while its TCP connection stays open.
    ///
    /// # Errors
    /// If there is no session.
    pub fn freeze_sessions(&self) -> Result<()> {
        match self.signal_sessions(Signal::STOP) {
            0 => bail!("there was no session to freeze"),
            _ => Ok(()),
        }
    }

    /// Kills the listener and every session.
    ///
    /// # Errors
    /// If the listener does not end.
    pub async fn stop(&mut self) -> Result<()> {
        // Collected first: without their parent the sessions can no longer be found.
        let sessions = self.session_pids();
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        for pid in sessions {
            let _ = process::signal(pid, Signal::KILL);
        }
        Ok(())
    }

    /// Stops the server, generates new host keys and starts it again. The known_hosts files keep the old keys.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn change_host_keys(&mut self) -> Result<()> {
        self.stop().await?;
        for kind in &self.options.host_keys {
            let key = self.dir.path().join(format!("host_{kind}"));
            crate::keys::generate(&key, kind).await?;
        }
        self.start_again().await
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.signal_sessions(Signal::KILL);
    }
}

/// The name of the user who runs the tests.
///
/// # Errors
/// If the user has no name.
pub fn current_user() -> Result<String> {
    let output = std::process::Command::new("id").arg("-un").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn program() -> Result<PathBuf> {
    // sshd must be started by its absolute path: it starts itself again for each session.
    let paths = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];
    let found = paths.iter().map(PathBuf::from).find(|path| path.exists());
    found.context("there is no sshd; run tests/run, which installs openssh-server")
}
