//! One life in progress: the daemon under strace, and the script that it has to follow.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::config::Ports;
use super::injection::Injection;
use super::judge::{Fault, FaultKind, ShortStream};
use super::life::{Stage, read};
use super::script::{Way, echo};
use crate::agent::Agent;
use crate::home::Home;
use crate::process::{descendants, signal, wait_gone};
use crate::sshd::Sshd;

/// How long the first connections may take: a failed dial is tried again after at most two seconds.
const FIRST: Duration = Duration::from_secs(12);
/// How long each later step may take.
const STEP: Duration = Duration::from_secs(8);
/// The same where a password was sent before the connection broke, or an agent refused the connection: it may count as a
/// failed login, so the next attempt comes after about half a minute.
const AFTER_LOGIN: Duration = Duration::from_secs(50);
/// How long the daemon may take to read a changed file by itself: two seconds until it polls, and five until it reads a file
/// again that could not be read.
const NOTICE: Duration = Duration::from_secs(12);
/// How long a command of tunnelctl may take.
const COMMAND: Duration = Duration::from_secs(12);
/// How long the daemon may take to stop.
const STOP: Duration = Duration::from_secs(9);

/// One life in progress.
pub(super) struct Actor<'a> {
    pub(super) stage: &'a Stage,
    pub(super) agent: Agent,
    pub(super) server: Sshd,
    pub(super) home: Home,
    pub(super) ports: Ports,
    pub(super) faults: Vec<Fault>,
    pub(super) short_streams: Vec<ShortStream>,
    /// Whether the daemon ended with an error before the first connection.
    pub(super) refused: bool,
    /// Whether a changed file was read only after `tunnelctl reload`.
    pub(super) reloaded_by_command: bool,
    /// Whether a step failed after the daemon had printed a panic.
    pub(super) has_panicked: bool,
    /// The step that is played now.
    pub(super) step: String,
}

impl Actor<'_> {
    /// Starts the daemon under strace.
    pub(super) fn spawn(&self, injection: Option<&Injection>) -> Result<Child> {
        // `-b execve`: the threads of the daemon are traced and its children are not. A call of a child would not fail once:
        // strace counts per thread, so it would fail in each new child, at every attempt. `-yy` prints what a descriptor
        // is, `-ttt` the seconds since 1970.
        let options = ["strace", "-f", "-b", "execve", "-qq", "-yy", "-ttt", "-o"];
        let mut strace: Vec<String> = options.map(str::to_owned).into();
        strace.push(self.home.path("trace").display().to_string());
        if let Some(injection) = injection {
            strace.extend([
                "-e".to_owned(),
                format!("trace={}", injection.call),
                "-e".to_owned(),
                format!("inject={injection}"),
            ]);
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

    /// Plays the script until its end or the daemon's.
    pub(super) async fn play(&mut self, child: &mut Child) {
        let first = ("first", Way::Forward { remote: false }, self.ports.local);
        let started = tokio::select! {
            () = self.try_way(first.0, first.1, first.2, FIRST) => None,
            status = child.wait() => Some(status),
        };
        match started {
            None => {}
            Some(Ok(status)) if !status.success() => {
                self.refused = true;
                return;
            }
            Some(status) => return self.died(&status),
        }
        let died = tokio::select! {
            () = self.follow_script() => None,
            status = child.wait() => Some(status),
        };
        if let Some(status) = died {
            self.died(&status);
        }
    }

    fn died(&mut self, status: &std::io::Result<ExitStatus>) {
        let status = status
            .as_ref()
            .map_or_else(ToString::to_string, ToString::to_string);
        self.stopped(format!("DIED with {status} at the step `{}`", self.step));
    }

    fn stopped(&mut self, text: String) {
        self.faults.push(Fault::new(FaultKind::Stopped, text));
    }

    /// The script after the first connection.
    async fn follow_script(&mut self) {
        let ports = self.ports;
        let forward = Way::Forward { remote: false };
        let socks = Way::Socks(self.stage.echo.port());
        let remote = Way::Forward { remote: true };
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
            self.try_way(name, way, port, limit).await;
        }
        self.kill_sessions().await;
        let local = ("local", forward, ports.local, STEP);
        for (name, way, port, limit) in all.into_iter().chain([local]) {
            let name = format!("{name}, after the kill");
            self.try_way(&name, way, port, limit.max(FIRST)).await;
        }
        self.change_config().await;
        self.command(&["status"], false).await;
        self.command(&["down", "t"], false).await;
        self.command(&["up", "t"], false).await;
        self.try_way("up again", forward, ports.local, STEP).await;
    }

    /// Kills the sessions and waits for their end: a connection to a remote forward of a dying session may end in order.
    async fn kill_sessions(&mut self) {
        "kill".clone_into(&mut self.step);
        let sessions = self.server.session_pids();
        // A daemon that has no session now is a fault that was reported before.
        let _ = self.server.kill_sessions();
        if let Err(error) = wait_gone(&sessions).await {
            self.stopped(format!("the lab: {error:#}"));
        }
    }

    /// Adds a forward to the configuration file, which the daemon must notice by itself.
    async fn change_config(&mut self) {
        if self.has_panicked {
            return;
        }
        if let Err(error) = self.write_config(true) {
            self.stopped(format!("the lab: {error:#}"));
        }
        "the added forward".clone_into(&mut self.step);
        let (way, port) = (Way::Forward { remote: false }, self.ports.added);
        match echo(way, port, NOTICE, &mut self.short_streams).await {
            Ok(()) => {}
            Err(fault) if fault.kind == FaultKind::Wrong => self.faults.push(fault),
            Err(_) => {
                self.reloaded_by_command = true;
                self.command(&["reload"], true).await;
                self.try_way("the added forward", way, port, STEP).await;
            }
        }
    }

    /// Sends bytes through a forward and back. Does nothing after a step that failed because of a panic: the other steps would
    /// only wait for their limits.
    async fn try_way(&mut self, name: &str, way: Way, port: u16, limit: Duration) {
        if self.has_panicked {
            return;
        }
        name.clone_into(&mut self.step);
        if let Err(mut fault) = echo(way, port, limit, &mut self.short_streams).await {
            fault.text = format!("{name}: {}", fault.text);
            self.faults.push(fault);
            self.has_panicked = read(&self.home.path("output")).contains(" panicked at ");
        }
    }

    /// Runs tunnelctl until it succeeds: the failure may hit its own connection, or a file that is read again soon. `once`
    /// for commands whose failure the next step shows.
    async fn command(&mut self, args: &[&str], once: bool) {
        self.step = args.join(" ");
        let deadline = Instant::now() + COMMAND;
        while !self.has_panicked {
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
                return self.stopped(format!("tunnelctl {}: {last}", args.join(" ")));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Stops the daemon by SIGTERM and ends whatever is left of it.
    pub(super) async fn end(&mut self, child: &mut Child) {
        // The child is strace; the daemon is its first child.
        let Some(strace) = child.id() else { return };
        let daemon = descendants(strace).first().copied();
        if let Some(daemon) = daemon {
            let _ = signal(daemon, Signal::TERM);
            match timeout(STOP, child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(status) => self.stopped(format!("{status:?} at SIGTERM")),
                Err(_) => self.stopped("hangs at SIGTERM".to_owned()),
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
