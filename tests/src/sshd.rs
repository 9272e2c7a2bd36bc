//! A private, real OpenSSH server: its own keys, port, configuration and log.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{self, Log, Process};
use crate::wait::LONG;

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Lines of sshd_config that go before the lab's own: the first one of a keyword counts. `Match` blocks last.
    pub lines: Vec<String>,
    /// The types of its host keys.
    pub host_keys: Vec<String>,
    /// The options before the user's key in authorized_keys.
    pub key_options: String,
    /// The type of the user's key.
    pub user_key: String,
    /// Whether it listens on `::1` too.
    pub ipv6: bool,
    /// The user's password, in a private copy of the password database; only root can make one.
    pub password: Option<String>,
    /// What goes before its command, such as a way into another network.
    pub before: Vec<String>,
    /// The address that it listens on.
    pub ip: String,
    /// What PAM does for it, a private copy of its service's file; only beside a password of its own.
    pub pam: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            host_keys: vec!["ed25519".to_owned()],
            key_options: String::new(),
            user_key: "ed25519".to_owned(),
            ipv6: false,
            password: None,
            pam: None,
            before: Vec::new(),
            ip: "127.0.0.1".to_owned(),
        }
    }
}

/// A running server, and the user's key that it accepts.
pub struct Sshd {
    dir: TempDir,
    port: u16,
    process: Option<Process>,
    setup: Setup,
}

impl Sshd {
    /// A server with the lab's own configuration.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start() -> Result<Self> {
        Self::with(Setup::default()).await
    }

    /// A server with these lines of sshd_config before the lab's own.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn with_lines(lines: &[&str]) -> Result<Self> {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Self::with(Setup {
            lines,
            ..Setup::default()
        })
        .await
    }

    /// A server set up so.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn with(setup: Setup) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-sshd").tempdir()?;
        let user_key = dir.path().join("user_key");
        crate::keys::generate(&user_key, &setup.user_key).await?;
        let public = std::fs::read_to_string(user_key.with_extension("pub"))?;
        let line = format!("{} {public}", setup.key_options);
        std::fs::write(dir.path().join("authorized_keys"), line.trim_start())?;
        for kind in &setup.host_keys {
            crate::keys::generate(&dir.path().join(format!("host_{kind}")), kind).await?;
        }
        let mut sshd = Self {
            dir,
            port: 0,
            process: None,
            setup,
        };
        // Between choosing a port and binding it another may have taken it.
        for _ in 0..5 {
            sshd.port = crate::ports::free()?;
            if sshd.resume().await.is_ok() {
                return Ok(sshd);
            }
        }
        sshd.port = crate::ports::free()?;
        sshd.resume().await?;
        Ok(sshd)
    }

    /// Starts it again after [`Sshd::stop`], on the same port, with what its files now hold.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn resume(&mut self) -> Result<()> {
        let config = self.dir.path().join("sshd_config");
        std::fs::write(&config, self.config())?;
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd")?;
        }
        let mut command = match &self.setup.password {
            None => process::wrapped(&self.setup.before, program()?),
            Some(password) => self.with_password(password).await?,
        };
        command.args(["-D", "-e", "-f"]).arg(&config);
        let process = Process::start("sshd", command)?;
        process.log().wait("Server listening on", LONG).await?;
        if self.setup.ipv6 {
            process.log().wait("Server listening on ::1", LONG).await?;
        }
        self.process = Some(process);
        Ok(())
    }

    /// The server in a mount namespace where the user has this password, none where it is empty.
    async fn with_password(&self, password: &str) -> Result<Command> {
        let (user, dir) = (user()?, self.dir.path());
        let mut mounts = vec![(dir.join("shadow"), "/etc/shadow")];
        let hash = crate::keys::crypt(password).await?;
        std::fs::write(
            dir.join("shadow"),
            format!("{user}:{hash}:19000:0:99999:7:::\n"),
        )?;
        if let Some(pam) = &self.setup.pam {
            std::fs::write(dir.join("pam"), pam)?;
            mounts.push((dir.join("pam"), "/etc/pam.d/sshd"));
        }
        let before = [self.setup.before.clone(), process::mounting(&mounts)];
        Ok(process::wrapped(&before.concat(), program()?))
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        let at = self.setup.lines.iter();
        let at = at.take_while(|line| !line.starts_with("Match")).count();
        let (first, matches) = self.setup.lines.split_at(at);
        let mut text = first.join("\n");
        let _ = write!(
            text,
            "\nListenAddress {ip}:{port}\nPidFile none\nAuthorizedKeysFile {dir}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nLogLevel DEBUG1\nGatewayPorts clientspecified\n\
             MaxStartups 200:30:300\nUseDNS no\nPrintMotd no\nPrintLastLog no\n",
            ip = self.setup.ip,
            port = self.port
        );
        if self.setup.ipv6 {
            let _ = writeln!(text, "ListenAddress [::1]:{}", self.port);
        }
        for kind in &self.setup.host_keys {
            let _ = writeln!(text, "HostKey {dir}/host_{kind}");
        }
        text + &matches.join("\n") + "\n"
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        crate::ports::local(self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its folder: keys, authorized_keys, configuration.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The user's private key; `.pub` stands beside it.
    pub fn user_key(&self) -> PathBuf {
        self.dir.path().join("user_key")
    }

    /// The public half of the host key of type `kind`.
    pub fn host_key(&self, kind: &str) -> PathBuf {
        self.dir.path().join(format!("host_{kind}.pub"))
    }

    /// The setup, to be changed before [`Sshd::resume`].
    pub fn setup_mut(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// Stands while it runs.
    ///
    /// # Errors
    /// Where it is stopped.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("this sshd is stopped")
    }

    /// Its log.
    ///
    /// # Errors
    /// Where it is stopped.
    pub fn log(&self) -> Result<&Log> {
        Ok(self.process()?.log())
    }

    /// The known_hosts lines for its host keys as they stand, reached at `port` of its address.
    ///
    /// # Errors
    /// Where a key cannot be read.
    pub fn known_hosts_at(&self, port: u16) -> Result<String> {
        let mut text = String::new();
        for kind in &self.setup.host_keys {
            let key = std::fs::read_to_string(self.host_key(kind))?;
            let key = key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "[{}]:{port} {key}", self.setup.ip);
        }
        Ok(text)
    }

    /// The lines of `[tunnel.NAME]` that reach it straight, its host key known.
    ///
    /// # Errors
    /// Where the known_hosts file cannot be written.
    pub fn tunnel(&self, name: &str) -> Result<String> {
        self.tunnel_at(name, self.port)
    }

    /// The lines of `[tunnel.NAME]` that reach it through `port` of 127.0.0.1, its host key known.
    ///
    /// # Errors
    /// Where the known_hosts file cannot be written.
    pub fn tunnel_at(&self, name: &str, port: u16) -> Result<String> {
        let known = self.dir.path().join(format!("known_hosts_{port}"));
        std::fs::write(&known, self.known_hosts_at(port)?)?;
        Ok(format!(
            "[tunnel.{name}]\nhost = \"{user}@{ip}:{port}\"\nidentity_file = \"{key}\"\n\
             user_known_hosts_file = \"{known}\"\n",
            user = user()?,
            ip = self.setup.ip,
            key = self.user_key().display(),
            known = known.display(),
        ))
    }

    /// The lines of an ssh_config that make `alias` reach it, its host key known.
    ///
    /// # Errors
    /// Where the known_hosts file cannot be written.
    pub fn ssh_host(&self, alias: &str) -> Result<String> {
        let known = self.dir.path().join("known_hosts_alias");
        std::fs::write(&known, self.known_hosts_at(self.port)?)?;
        Ok(format!(
            "Host {alias}\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  IdentityFile {key}\n  \
             UserKnownHostsFile {known}\n  IdentitiesOnly yes\n",
            port = self.port,
            user = user()?,
            key = self.user_key().display(),
            known = known.display(),
        ))
    }

    /// The processes of its sessions.
    pub fn sessions(&self) -> Vec<u32> {
        let pid = self.process.as_ref().map(Process::pid);
        pid.map(process::descendants).unwrap_or_default()
    }

    /// Sends `signal` to every process of its sessions, the listener spared; returns how many there were.
    pub fn signal_sessions(&self, signal: Signal) -> usize {
        let sent = |pid: &u32| process::signal(*pid, signal).is_ok();
        self.sessions().into_iter().filter(|pid| sent(pid)).count()
    }

    /// Kills every session, the listener spared.
    ///
    /// # Errors
    /// Where there was none.
    pub fn kill_sessions(&self) -> Result<()> {
        match self.signal_sessions(Signal::KILL) {
            0 => bail!("there was no session to kill"),
            _ => Ok(()),
        }
    }

    /// Stops every session, so that the peer is silent and its TCP connection stands.
    ///
    /// # Errors
    /// Where there was none.
    pub fn freeze_sessions(&self) -> Result<()> {
        match self.signal_sessions(Signal::STOP) {
            0 => bail!("there was no session to freeze"),
            _ => Ok(()),
        }
    }

    /// Stops the server: the listener and every session.
    ///
    /// # Errors
    /// Where it does not end.
    pub async fn stop(&mut self) -> Result<()> {
        let sessions = self.sessions();
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        for pid in sessions {
            let _ = process::signal(pid, Signal::KILL);
        }
        Ok(())
    }

    /// Stops it, makes new host keys and starts it again; the known_hosts files stay as they were.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn change_host_keys(&mut self) -> Result<()> {
        self.stop().await?;
        for kind in &self.setup.host_keys {
            let key = self.dir.path().join(format!("host_{kind}"));
            crate::keys::generate(&key, kind).await?;
        }
        self.resume().await
    }

    /// Waits until a session is logged in, counted from `mark` of its log.
    ///
    /// # Errors
    /// Where none is in time.
    pub async fn wait_login(&self, mark: usize, limit: Duration) -> Result<()> {
        self.log()?.wait_after(mark, "Accepted ", limit).await?;
        Ok(())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.signal_sessions(Signal::KILL);
    }
}

/// The user that logs in: the one who runs the tests.
///
/// # Errors
/// Where it has no name.
pub fn user() -> Result<String> {
    let out = std::process::Command::new("id").arg("-un").output()?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

fn program() -> Result<PathBuf> {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.context("there is no sshd; run tests/run, which installs openssh-server")
}
