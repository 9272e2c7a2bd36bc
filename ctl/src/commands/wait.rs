//! Waiting until tunnels are up or have failed, with a spinner, relaying prompts; for `up` and `restart`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tunneld_proto::client::Client;
use tunneld_proto::message::{Names, Tunnels};
use tunneld_proto::status::{ForwardState, LastError, State, TunnelStatus};

use super::follow::{Change, Following, lost};
use crate::daemon::Context;
use crate::exit::{Exit, FAILED, INTERRUPTED, NO_DAEMON, TIMED_OUT};
use crate::output::line::{Ink, Line};
use crate::output::spinner::Spinner;
use crate::output::status;
use crate::progress::{Progress, progress};
use crate::prompt::{self, Source};
use crate::time::human;

/// How long the daemon may take to carry the command to the tunnels.
const COMMAND: Duration = Duration::from_secs(30);
/// How long a failure of before the command is given to be gone.
const GRACE: Duration = Duration::from_secs(1);
const TURN: Duration = Duration::from_millis(100);

/// The command that brings them up.
pub(super) struct Command<'a> {
    /// The method.
    pub(super) method: &'a str,
    /// Whether sessions of before do not count.
    pub(super) anew: bool,
    /// The tunnels.
    pub(super) names: Vec<String>,
    /// How long to wait; none for not at all.
    pub(super) limit: Option<Duration>,
    /// Failures before then do not count.
    pub(super) begun: Timestamp,
}

/// Gives the command, waits, says how it went.
pub(super) async fn run(
    context: &Context,
    client: &mut Client,
    following: Following,
    command: Command<'_>,
) -> Result<(), Exit> {
    let params = Names {
        names: command.names.clone(),
        wait: false,
        timeout_ms: None,
    };
    let mut following = following;
    if command.limit.is_some() {
        prompt::attend(client, &command.names).await?;
    }
    let tunnels: Tunnels = client.call_within(command.method, &params, COMMAND).await?;
    following.update(tunnels);
    let Some(limit) = command.limit else {
        return Ok(());
    };
    let now = Instant::now();
    let mut waiting = Waiting {
        context,
        following,
        anew: command.anew,
        begun: command.begun,
        open: command.names.iter().cloned().collect(),
        failed: false,
        asked: BTreeSet::new(),
        grace: now + GRACE,
        // A limit beyond what a clock holds is none.
        deadline: now
            .checked_add(limit)
            .unwrap_or(now + Duration::from_secs(u32::MAX.into())),
        started: now,
        spinner: context.ui.spinner(),
        seen: BTreeMap::new(),
    };
    let outcome = waiting.until_settled(client, limit).await;
    waiting.spinner.clear();
    if context.ui.json {
        let tunnels: Vec<&TunnelStatus> = command
            .names
            .iter()
            .filter_map(|name| waiting.following.get(name))
            .collect();
        context.ui.json(&tunnels)?;
    }
    outcome
}

struct Waiting<'a> {
    context: &'a Context,
    following: Following,
    anew: bool,
    begun: Timestamp,
    /// Those that have neither come up nor failed.
    open: BTreeSet<String>,
    failed: bool,
    /// Prompts that were asked here.
    asked: BTreeSet<u64>,
    grace: Instant,
    deadline: Instant,
    started: Instant,
    spinner: Spinner,
    /// What was last mentioned of each.
    seen: BTreeMap<String, String>,
}

impl Waiting<'_> {
    async fn until_settled(&mut self, client: &mut Client, limit: Duration) -> Result<(), Exit> {
        let mut turn = interval(TURN);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.settle(client).await?;
            if self.open.is_empty() {
                return if self.failed {
                    Err(Exit::silent(FAILED))
                } else {
                    Ok(())
                };
            }
            let in_grace = Instant::now() < self.grace;
            tokio::select! {
                said = client.notification() => match said? {
                    Some(said) => {
                        if self.following.hear(said) == Change::Bye {
                            return Err(Exit::new(NO_DAEMON, "the daemon is stopping").hint("start it again and repeat the command"));
                        }
                    }
                    None => return Err(lost()),
                },
                _ = turn.tick(), if self.spinner.is_on() => {
                    let line = self.progress();
                    self.spinner.draw(line);
                }
                () = sleep_until(self.grace), if in_grace => {}
                () = sleep_until(self.deadline) => return Err(self.late(limit)),
                _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
            }
        }
    }

    /// Looks at those that are open; asks what they ask.
    async fn settle(&mut self, client: &mut Client) -> Result<(), Exit> {
        let open: Vec<String> = self.open.iter().cloned().collect();
        for name in open {
            let Some(tunnel) = self.following.get(&name).cloned() else {
                let gone = Exit::new(FAILED, format!("{name} was removed meanwhile"));
                self.fail(
                    &name,
                    &gone
                        .hint("tunnelctl check shows whether the configuration is as it should be"),
                );
                continue;
            };
            self.mention(&tunnel);
            match progress(&tunnel, self.begun, self.anew) {
                Progress::Pending => {}
                Progress::FailedBefore if Instant::now() < self.grace => {}
                // The reply to the command tells how the tunnel stood at that moment.
                Progress::Stopped if Instant::now() < self.grace => {}
                Progress::Stopped => {
                    let stopped = Exit::new(FAILED, format!("{name} was stopped meanwhile"));
                    self.fail(
                        &name,
                        &stopped.hint(format!("start it again: tunnelctl up {name}")),
                    );
                }
                Progress::FailedBefore => {
                    self.fail(&name, &failure(&tunnel, tunnel.last_error.as_ref()))
                }
                Progress::Failed(error) => self.fail(&name, &failure(&tunnel, error)),
                Progress::Up => self.up(&tunnel),
                Progress::NeedsInput(prompt) if self.asked.contains(&prompt.id) => {}
                Progress::NeedsInput(prompt) => {
                    let Some(source) = Source::terminal() else {
                        let what = status::question(prompt.kind);
                        let asks = Exit::new(
                            FAILED,
                            format!(
                                "{name} asks for the {what}, and there is no terminal to ask on"
                            ),
                        );
                        self.fail(
                            &name,
                            &asks.hint(format!("answer it in a terminal: tunnelctl answer {name}")),
                        );
                        continue;
                    };
                    self.asked.insert(prompt.id);
                    self.ask(client, prompt, source).await?;
                }
            }
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        client: &mut Client,
        prompt: &tunneld_proto::status::Prompt,
        source: Source,
    ) -> Result<(), Exit> {
        self.spinner.clear();
        let began = Instant::now();
        let mut heard = Vec::new();
        let outcome = prompt::relay(self.context, client, prompt, source, &mut heard).await;
        for said in heard {
            self.following.hear(said);
        }
        self.deadline += began.elapsed();
        outcome.map(drop)
    }

    fn up(&mut self, tunnel: &TunnelStatus) {
        self.open.remove(&tunnel.name);
        self.spinner.clear();
        say_up(self.context, tunnel);
    }

    fn fail(&mut self, name: &str, exit: &Exit) {
        self.open.remove(name);
        self.failed = true;
        self.spinner.clear();
        self.context.ui.exit(exit);
    }

    /// Each new step, where more is wanted.
    fn mention(&mut self, tunnel: &TunnelStatus) {
        if !self.context.ui.verbose {
            return;
        }
        let phase = tunnel
            .phase
            .map(|phase| format!(" ({})", phase.as_str()))
            .unwrap_or_default();
        let step = format!("{}: {}{phase}", tunnel.name, tunnel.state.as_str());
        if self.seen.get(&tunnel.name) != Some(&step) {
            self.spinner.clear();
            self.context.ui.mention(&step);
            self.seen.insert(tunnel.name.clone(), step);
        }
    }

    fn progress(&self) -> Line {
        let now = Timestamp::now();
        let mut line = Line::new();
        for (number, name) in self.open.iter().enumerate() {
            let Some(tunnel) = self.following.get(name) else {
                continue;
            };
            let gap = if number == 0 { "" } else { ", " };
            let step = match tunnel.state {
                State::Connecting | State::Waiting | State::NeedsInput => {
                    format!(" {}", status::next(tunnel, now))
                }
                _ => String::new(),
            };
            line = line
                .and(gap)
                .with(Ink::Bold, name)
                .and(" ")
                .with(status::ink(tunnel.state), tunnel.state.as_str())
                .and(step);
        }
        line.with(Ink::Dim, format!("  {}", human(self.started.elapsed())))
    }

    fn late(&self, limit: Duration) -> Exit {
        let first = self.open.first().cloned().unwrap_or_default();
        let causes = self.open.iter().filter_map(|name| {
            let tunnel = self.following.get(name)?;
            let why = tunnel
                .last_error
                .as_ref()
                .map(|error| format!(": {}", error.message))
                .unwrap_or_default();
            Some(format!("{name} is {}{why}", tunnel.state.as_str()))
        });
        let names: Vec<&str> = self.open.iter().map(String::as_str).collect();
        let exit = Exit {
            causes: causes.collect(),
            ..Exit::new(
                TIMED_OUT,
                format!("not up within {}: {}", human(limit), names.join(", ")),
            )
        };
        exit.hint(format!(
            "the daemon goes on trying: tunnelctl status {first}; or wait longer with --wait=2m"
        ))
    }
}

/// Says that a tunnel stands, where it listens, and what of it does not work.
pub(super) fn say_up(context: &Context, tunnel: &TunnelStatus) {
    let forwards: Vec<String> = tunnel
        .forwards
        .iter()
        .filter(|forward| forward.state == ForwardState::Listening)
        .map(|forward| forward.listen.clone())
        .collect();
    let listens = if forwards.is_empty() {
        String::new()
    } else {
        format!("  {}", forwards.join("  "))
    };
    context.ui.say(
        Line::of(Ink::Bold, &tunnel.name)
            .and(" ")
            .with(status::ink(tunnel.state), tunnel.state.as_str())
            .with(Ink::Dim, listens),
    );
    // What does not work is told even to the quiet.
    if tunnel.state == State::Degraded {
        for line in status::troubles(tunnel) {
            context.ui.complain(&line);
        }
    }
}

/// Why a tunnel is not up.
pub(super) fn failure(tunnel: &TunnelStatus, error: Option<&LastError>) -> Exit {
    let name = &tunnel.name;
    match error {
        Some(error) => {
            let hint = error.hint.clone();
            Exit::new(FAILED, format!("{name}: {}", error.message)).hint(hint.unwrap_or_else(
                || format!("see tunnelctl status {name} and tunnelctl logs {name}"),
            ))
        }
        None => Exit::new(FAILED, format!("{name} has failed"))
            .hint(format!("see tunnelctl logs {name}")),
    }
}
