//! The scripted life of one daemon.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::injection::Injection;
use super::script::{Way, echo};
use crate::agent::Agent;
use crate::home::Home;
use crate::process::{descendants, signal};
use crate::prompting_server::{AuthFactor, PromptingServer};
use crate::sshd::{Sshd, SshdOptions};
use crate::target::Target;

const PASSWORD: &str = "correct horse";

/// How long the first connections may take: a failed dial is tried again after at most two seconds.
const FIRST: Duration = Duration::from_secs(12);
/// How long each later step may take.
const STEP: Duration = Duration::from_secs(8);
/// The same where a password was sent before the connection broke, or an agent refused the connection: it may count as a
/// failed login, so the next attempt comes after about half a minute.
const AFTER_LOGIN: Duration = Duration::from_secs(50);
/// How long the daemon may take to notice a changed file by itself; `reload` follows.
const NOTICE: Duration = Duration::from_secs(3);
/// How long a command of tunnelctl may take.
const COMMAND: Duration = Duration::from_secs(12);
/// How long the daemon may take to stop.
const STOP: Duration = Duration::from_secs(9);

/// What all lives share: the echo server, and the server that asks for a password.
pub struct Stage {
    echo: Target,
    passwords: PromptingServer,
}

/// How one life went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Everything went on.
    Right,
    /// The failure met a call that cannot fail in this way, see `Injection::is_impossible`.
    Impossible,
    /// The daemon refused to start and said why in its last line.
    Refused(String),
    /// What went wrong, in the order of the script, and the daemon's log.
    Wrong {
        /// One line each.
        faults: Vec<String>,
        /// Everything that the daemon printed.
        log: String,
    },
}

impl Stage {
    /// Starts what the lives share.
    ///
    /// # Errors
    /// If a part does not start.
    pub async fn start() -> Result<Self> {
        Ok(Self {
            echo: Target::echo().await?,
            passwords: PromptingServer::start(vec![AuthFactor::Password(PASSWORD)]).await?,
        })
    }

    /// Plays a life. Without `injection` nothing fails, and the trace of all calls is returned too.
    ///
    /// # Errors
    /// If a part of the lab fails.
    pub async fn play(&self, injection: Option<&Injection>) -> Result<(Life, String)> {
        let mut options = SshdOptions {
            host_keys: vec!["ed25519".into()],
            ..SshdOptions::default()
        };
        options.config_lines.push("MaxStartups 100".into());
        let server = Sshd::start_with(options).await?;
        // Not shared: the server refuses a client that offers the keys of many other lives first.
        let agent = Agent::start().await?;
        agent.add(&server.user_key()).await?;
        let home = Home::without_config()?;
        let ports = Ports::free()?;
        let trace = home.path("trace");
        let mut daemon = Actor {
            stage: self,
            agent,
            server,
            home,
            ports,
            faults: Vec::new(),
        };
        daemon.write_config(false)?;
        let mut child = daemon.spawn(injection, &trace)?;
        let refused = daemon.script(&mut child).await;
        daemon.end(&mut child).await;
        let log = daemon.log();
        let panic = log.lines().find(|line| line.contains("panicked at"));
        if let Some(line) = panic {
            daemon.faults.push(format!("PANIC {line}"));
        }
        let life = match refused {
            _ if injection.is_some_and(|injection| injection.is_impossible(panic)) => {
                Life::Impossible
            }
            _ if !daemon.faults.is_empty() => Life::Wrong {
                faults: daemon.faults,
                log,
            },
            Some(why) => Life::Refused(why),
            None => Life::Right,
        };
        let trace = std::fs::read_to_string(trace).unwrap_or_default();
        Ok((life, trace))
    }
}

/// The ports of one life.
#[derive(Debug, Clone, Copy)]
struct Ports {
    local: u16,
    dynamic: u16,
    remote: u16,
    added: u16,
    by_alias: u16,
    by_command: u16,
    by_password: u16,
}

impl Ports {
    fn free() -> Result<Self> {
        // Distinct: a port is free until the daemon binds it.
        let mut distinct = std::collections::BTreeSet::new();
        while distinct.len() < 7 {
            distinct.insert(crate::ports::free()?);
        }
        let mut ports = distinct.into_iter();
        let mut next = || ports.next().context("seven ports");
        Ok(Self {
            local: next()?,
            dynamic: next()?,
            remote: next()?,
            added: next()?,
            by_alias: next()?,
            by_command: next()?,
            by_password: next()?,
        })
    }
}

/// One life in progress.
struct Actor<'a> {
    stage: &'a Stage,
    agent: Agent,
    server: Sshd,
    home: Home,
    ports: Ports,
    faults: Vec<String>,
}

impl Actor<'_> {
    /// Writes the configuration: four tunnels, one for each way to reach a server and to log in. `changed` adds a forward.
    fn write_config(&self, changed: bool) -> Result<()> {
        let Self {
            stage,
            server,
            home,
            ..
        } = self;
        let (ports, echo) = (self.ports, stage.echo.port());
        let config = home.path("ssh_config");
        std::fs::write(&config, server.ssh_config_host("lab")?)?;
        let key = server.user_key().display().to_string();
        let known_hosts = home.path("known_hosts").display().to_string();
        let user = crate::sshd::current_user()?;
        let host = format!(
            "host = \"{user}@127.0.0.1:{}\"\nssh_config = false\n",
            server.port()
        );
        let added = if changed {
            format!(", \"{} 127.0.0.1:{echo}\"", ports.added)
        } else {
            String::new()
        };
        let tunnels = format!(
            "[defaults]\nbackoff = {{ initial = \"100ms\", max = \"1s\" }}\nidentity_agent = \"none\"\n\
             strict_host_key_checking = \"accept-new\"\nuser_known_hosts_file = \"{known_hosts}\"\n\
             [tunnel.t]\n{host}identity_file = \"{key}\"\ndynamic_forward = {dynamic}\n\
             remote_forward = \"127.0.0.1:{remote}:127.0.0.1:{echo}\"\n\
             local_forward = [\"{local} 127.0.0.1:{echo}\"{added}]\n\
             [tunnel.alias]\nhost = \"lab\"\nssh_config = \"{config}\"\n\
             local_forward = \"{by_alias} 127.0.0.1:{echo}\"\n\
             [tunnel.command]\n{host}proxy_command = \"nc %h %p\"\nidentity_agent = \"{agent}\"\n\
             identities_only = false\nlocal_forward = \"{by_command} 127.0.0.1:{echo}\"\n\
             {passwords}ssh_config = false\npassword_command = [\"echo\", \"{PASSWORD}\"]\n\
             preferred_authentications = \"password\"\nlocal_forward = \"{by_password} 127.0.0.1:{echo}\"\n",
            dynamic = ports.dynamic,
            remote = ports.remote,
            local = ports.local,
            config = config.display(),
            by_alias = ports.by_alias,
            agent = self.agent.socket().display(),
            by_command = ports.by_command,
            passwords = stage.passwords.tunnel_toml("password")?,
            by_password = ports.by_password,
        );
        home.write("t.toml", &tunnels)?;
        Ok(())
    }

    /// Starts the daemon under strace.
    fn spawn(&self, injection: Option<&Injection>, trace: &Path) -> Result<Child> {
        // `-b execve`: the threads of the daemon are traced and its children are not. A call of a child would not fail once:
        // strace counts per thread, so it would fail in each new child, at every attempt.
        let mut strace: Vec<String> =
            ["strace", "-f", "-b", "execve", "-qq", "--seccomp-bpf", "-o"]
                .map(str::to_owned)
                .into();
        match injection {
            Some(injection) => strace.extend([
                "/dev/null".to_owned(),
                "-e".to_owned(),
                format!("trace={}", injection.call),
                "-e".to_owned(),
                format!("inject={injection}"),
            ]),
            None => strace.push(trace.display().to_string()),
        }
        let mut command = self.home.command_with_prefix(&strace, "tunneld")?;
        let output = std::fs::File::create(self.home.path("output"))?;
        command
            .arg("-v")
            .env("RUST_BACKTRACE", "1")
            .env("USER", crate::sshd::current_user()?)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        command.spawn().context("cannot start strace")
    }

    fn log(&self) -> String {
        let output = std::fs::read(self.home.path("output")).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Plays the script. Returns why the daemon refused to start; `None` if it started.
    async fn script(&mut self, child: &mut Child) -> Option<String> {
        let ports = self.ports;
        let forward = Way::Forward { remote: false };
        let socks = Way::Socks(self.stage.echo.port());
        let remote = Way::Forward { remote: true };
        tokio::select! {
            () = self.step("first", forward, ports.local, FIRST) => {}
            status = child.wait() => return self.ended_at_start(status),
        }
        let all = [
            ("socks", socks, ports.dynamic, STEP),
            ("remote", remote, ports.remote, STEP),
            ("by ssh_config", forward, ports.by_alias, STEP),
            (
                "by ProxyCommand and agent",
                forward,
                ports.by_command,
                AFTER_LOGIN,
            ),
            (
                "by password_command",
                forward,
                ports.by_password,
                AFTER_LOGIN,
            ),
        ];
        for (name, way, port, limit) in all {
            self.step(name, way, port, limit).await;
        }
        // A daemon that has no session now is a fault that was reported above.
        let _ = self.server.kill_sessions();
        let local = ("local", forward, ports.local, STEP);
        for (name, way, port, limit) in all.into_iter().chain([local]) {
            let name = format!("{name}, after the kill");
            self.step(&name, way, port, limit.max(FIRST)).await;
        }
        if let Err(error) = self.write_config(true) {
            self.faults.push(format!("the lab: {error:#}"));
        }
        if echo(forward, ports.added, NOTICE).await.is_err() {
            self.command(&["reload"], true).await;
            self.step("the added forward", forward, ports.added, STEP)
                .await;
        }
        self.command(&["status"], false).await;
        self.command(&["down", "t"], false).await;
        self.command(&["up", "t"], false).await;
        self.step("up again", forward, ports.local, STEP).await;
        if let Ok(Some(status)) = child.try_wait() {
            self.faults.push(format!("DIED with {status}"));
        }
        None
    }

    fn ended_at_start(
        &mut self,
        status: std::io::Result<std::process::ExitStatus>,
    ) -> Option<String> {
        let log = self.log();
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        match (status, last) {
            (Ok(status), Some(last)) if !status.success() => Some(last.to_owned()),
            (status, _) => {
                self.faults
                    .push(format!("ended at start without a word: {status:?}"));
                None
            }
        }
    }

    async fn step(&mut self, name: &str, way: Way, port: u16, limit: Duration) {
        if let Err(fault) = echo(way, port, limit).await {
            self.faults.push(format!("{name}: {fault}"));
        }
    }

    /// Runs tunnelctl until it succeeds: the failure may hit its own connection, or a file that is read again soon. `once`
    /// for commands whose failure the next step shows.
    async fn command(&mut self, args: &[&str], once: bool) {
        let deadline = Instant::now() + COMMAND;
        loop {
            let last = match timeout(COMMAND, self.home.ctl(args)).await {
                Ok(Ok(output)) if output.exit_code == 0 => return,
                Ok(Ok(output)) => format!("exit {}: {}", output.exit_code, output.stderr),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no end".to_owned(),
            };
            if once && last != "no end" {
                return;
            }
            if Instant::now() >= deadline {
                return self
                    .faults
                    .push(format!("tunnelctl {}: {last}", args.join(" ")));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Stops the daemon by SIGTERM and ends whatever is left of it.
    async fn end(&mut self, child: &mut Child) {
        // The child is strace; the daemon is its first child.
        let Some(strace) = child.id() else { return };
        let daemon = descendants(strace).first().copied();
        if let Some(daemon) = daemon {
            let _ = signal(daemon, Signal::TERM);
            match timeout(STOP, child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(status) => self.faults.push(format!("{status:?} at SIGTERM")),
                Err(_) => self.faults.push("hangs at SIGTERM".to_owned()),
            }
        }
        if child.id().is_some() {
            for pid in descendants(strace) {
                let _ = signal(pid, Signal::KILL);
            }
            let _ = child.kill().await;
        }
    }
}

impl Life {
    /// Returns whether the life is one of those that must not be.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong { .. })
    }
}
