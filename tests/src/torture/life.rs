//! One life from its start to its verdict, and what all lives share.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::actor::Actor;
use super::config::{PASSWORD, Ports};
use super::hit::Hit;
use super::injection::Injection;
use super::judge::{Evidence, Verdict};
use crate::agent::Agent;
use crate::home::Home;
use crate::prompting_server::{AuthFactor, PromptingServer};
use crate::sshd::{Sshd, SshdOptions};
use crate::target::Target;

/// What all lives share: the echo server, and the server that asks for a password.
pub struct Stage {
    pub(super) echo: Target,
    pub(super) passwords: PromptingServer,
}

/// A life that was played.
#[derive(Debug, Clone)]
pub struct Life {
    /// How it went.
    pub verdict: Verdict,
    /// Streams through the remote forward that ended in order too early.
    pub short_streams: usize,
    /// What strace wrote.
    pub trace: String,
    /// The folder with the logs and the trace. `None` if the life is not wrong: then it is removed.
    pub folder: Option<PathBuf>,
}

impl Life {
    /// Returns what went wrong; `None` if nothing did.
    pub fn faults(&self) -> Option<&[String]> {
        match &self.verdict {
            Verdict::Wrong(faults) => Some(faults),
            _ => None,
        }
    }
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

    /// Plays a life. Without `injection` nothing fails and all calls are traced.
    ///
    /// # Errors
    /// If a part of the lab fails.
    pub async fn play(&self, injection: Option<&Injection>) -> Result<Life> {
        let mut options = SshdOptions {
            host_keys: vec!["ed25519".into()],
            ..SshdOptions::default()
        };
        options.config_lines.push("MaxStartups 100".into());
        let server = Sshd::start_with(options).await?;
        // Not shared: the server refuses a client that offers the keys of many other lives first.
        let agent = Agent::start().await?;
        agent.add(&server.user_key()).await?;
        let mut actor = Actor {
            stage: self,
            agent,
            server,
            home: Home::without_config()?,
            ports: Ports::free()?,
            faults: Vec::new(),
            short_streams: Vec::new(),
            refused: false,
            reloaded_by_command: false,
            has_panicked: false,
            step: "start".to_owned(),
        };
        actor.write_config(false)?;
        let mut child = actor.spawn(injection)?;
        actor.play(&mut child).await;
        actor.end(&mut child).await;
        let mut life = actor.judge(injection.is_some());
        if life.faults().is_some() {
            life.folder = Some(actor.keep(&life, injection)?);
        }
        Ok(life)
    }
}

impl Actor<'_> {
    /// Judges the life that has ended. `fails` is whether a call fails in it.
    fn judge(&mut self, fails: bool) -> Life {
        let log = read(&self.home.path("output"));
        let trace = read(&self.home.path("trace"));
        let config_dir = self.home.config_dir().display().to_string();
        let short_streams = std::mem::take(&mut self.short_streams);
        let count = short_streams.len();
        let evidence = Evidence {
            log: &log,
            hits: if fails { Hit::all(&trace) } else { Vec::new() },
            faults: std::mem::take(&mut self.faults),
            short_streams,
            remote_ports: [self.server.port(), self.stage.echo.port()],
            refused: self.refused,
            reloaded_by_command: self.reloaded_by_command,
            config_dir: &config_dir,
        };
        let verdict = match evidence.verdict() {
            Verdict::NotHit if !fails => Verdict::Right,
            verdict => verdict,
        };
        Life {
            verdict,
            short_streams: count,
            trace,
            folder: None,
        }
    }

    /// Keeps the home of a wrong life: the files `output` of the daemon, `trace` of strace, `sshd.log` and `faults`. Returns
    /// its folder.
    fn keep(self, life: &Life, injection: Option<&Injection>) -> Result<PathBuf> {
        let injection = injection.map(ToString::to_string).unwrap_or_default();
        let faults = life.faults().unwrap_or_default().join("\n");
        let write = |name: &str, text: String| {
            std::fs::write(self.home.path(name), text)
                .with_context(|| format!("cannot write `{name}` of a wrong life"))
        };
        write("faults", format!("{injection}\n{faults}\n"))?;
        write("sshd.log", self.server.log()?.text())?;
        Ok(self.home.keep())
    }
}

/// Returns the text of a file; empty if there is none.
pub(super) fn read(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}
