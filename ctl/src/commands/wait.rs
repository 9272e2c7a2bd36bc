//! Waits until tunnels are up or have failed, shows a spinner and relays prompts; for `up` and `restart`.

mod errors;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tunneld_proto::client::Client;
use tunneld_proto::message::{Names, Tunnels};
use tunneld_proto::status::{ForwardKind, ForwardState, Prompt, State, TunnelStatus};

pub(super) use self::errors::{failure, removed, stopped};
use super::mirror::{Change, Mirror, connection_lost};
use crate::daemon::Context;
use crate::exit::{Exit, FAILED, INTERRUPTED, NO_DAEMON, TIMED_OUT};
use crate::output::line::{Line, Style};
use crate::output::spinner::Spinner;
use crate::output::status;
use crate::progress::{Progress, progress};
use crate::prompt::{self, Source};
use crate::time::human;

/// How long the daemon may take to pass the command on to the tunnels.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a failure or stop from before the command is ignored: the reply shows the state at the time of the call,
/// and the new attempt changes it only after that.
const GRACE: Duration = Duration::from_secs(1);
const SPINNER_INTERVAL: Duration = Duration::from_millis(100);

/// The command that brings the tunnels up.
pub(super) struct Command<'a> {
    /// `tunnel.up` or `tunnel.restart`.
    pub(super) method: &'a str,
    /// Whether a session from before the command does not count as up.
    pub(super) fresh: bool,
    pub(super) names: Vec<String>,
    /// How long to wait; `None` to return as soon as the daemon has accepted the command.
    pub(super) limit: Option<Duration>,
    /// Whether `--output json` prints the tunnels. Not where stdout carries other data.
    pub(super) prints_result: bool,
    /// Time of the command; earlier failures are ignored.
    pub(super) begun: Timestamp,
}

/// Sends the command, waits, and reports each tunnel as it comes up or fails.
pub(super) async fn run(
    context: &Context,
    client: &mut Client,
    mut mirror: Mirror,
    command: Command<'_>,
) -> Result<(), Exit> {
    let params = Names {
        names: command.names.clone(),
        // The wait happens here and not in the daemon, so that prompts can be relayed meanwhile.
        wait: false,
        timeout_ms: None,
    };
    let carriers = mirror.carriers(&command.names);
    if command.limit.is_some() {
        let asked = [command.names.as_slice(), &carriers].concat();
        prompt::attend(client, &asked).await?;
    }
    let tunnels: Tunnels = client
        .call_within(command.method, &params, COMMAND_TIMEOUT)
        .await?;
    mirror.update(tunnels);
    let Some(limit) = command.limit else {
        return Ok(());
    };
    let mut waiting = Waiting::new(context, mirror, &command, limit);
    waiting.announce_carriers(&carriers);
    let outcome = waiting.until_settled(client).await;
    waiting.spinner.clear();
    if context.ui.json && command.prints_result {
        let tunnels: Vec<&TunnelStatus> = command
            .names
            .iter()
            .filter_map(|name| waiting.mirror.get(name))
            .collect();
        context.ui.json(&tunnels)?;
    }
    outcome
}

struct Waiting<'a> {
    context: &'a Context,
    mirror: Mirror,
    fresh: bool,
    begun: Timestamp,
    limit: Duration,
    /// Tunnels that have neither come up nor failed yet.
    pending: BTreeSet<String>,
    failed: bool,
    /// Per tunnel, the reason that was printed last.
    reasons: BTreeMap<String, String>,
    /// Ids of the prompts that were asked here.
    asked: BTreeSet<u64>,
    grace_until: Instant,
    /// End of the wait; extended by the time that the user needs for prompts.
    deadline: Instant,
    started: Instant,
    spinner: Spinner,
    /// The step of each tunnel that `--verbose` printed last.
    printed: BTreeMap<String, String>,
}

impl<'a> Waiting<'a> {
    fn new(context: &'a Context, mirror: Mirror, command: &Command<'_>, limit: Duration) -> Self {
        let now = Instant::now();
        Self {
            context,
            mirror,
            fresh: command.fresh,
            begun: command.begun,
            limit,
            pending: command.names.iter().cloned().collect(),
            failed: false,
            reasons: BTreeMap::new(),
            asked: BTreeSet::new(),
            grace_until: now + GRACE,
            // A limit that overflows the clock means no limit; 136 years are enough.
            deadline: now
                .checked_add(limit)
                .unwrap_or(now + Duration::from_secs(u32::MAX.into())),
            started: now,
            spinner: context.ui.spinner(),
            printed: BTreeMap::new(),
        }
    }

    async fn until_settled(&mut self, client: &mut Client) -> Result<(), Exit> {
        let mut turn = interval(SPINNER_INTERVAL);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.settle(client).await?;
            if self.pending.is_empty() {
                return if self.failed {
                    Err(Exit::silent(FAILED))
                } else {
                    Ok(())
                };
            }
            let in_grace = self.in_grace();
            tokio::select! {
                notification = client.notification() => {
                    if self.mirror.apply(notification?.ok_or_else(connection_lost)?) == Change::Bye {
                        return Err(Exit::new(NO_DAEMON, "the daemon is stopping")
                            .hint("start it again and repeat the command"));
                    }
                }
                _ = turn.tick(), if self.spinner.is_on() => {
                    let line = self.spinner_line();
                    self.spinner.draw(line);
                }
                () = sleep_until(self.grace_until), if in_grace => {}
                () = sleep_until(self.deadline) => return Err(self.timed_out()),
                _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
            }
        }
    }

    fn in_grace(&self) -> bool {
        Instant::now() < self.grace_until
    }

    /// Checks each pending tunnel, reports those that are up or have failed, and asks new prompts.
    async fn settle(&mut self, client: &mut Client) -> Result<(), Exit> {
        let pending: Vec<String> = self.pending.iter().cloned().collect();
        for name in pending {
            let Some(tunnel) = self.mirror.get(&name).cloned() else {
                self.fail(&name, &removed(&name));
                continue;
            };
            self.print_step(&tunnel);
            match progress(&tunnel, self.begun, self.fresh) {
                Progress::Pending => {
                    self.print_reason(&tunnel);
                    self.settle_carriers(client, &name).await?;
                }
                Progress::FailedBefore | Progress::Stopped if self.in_grace() => {}
                Progress::Stopped => self.fail(&name, &stopped(&name)),
                Progress::FailedBefore => {
                    self.fail(&name, &failure(&tunnel, tunnel.last_error.as_ref()));
                }
                Progress::Failed(error) => self.fail(&name, &failure(&tunnel, error)),
                Progress::Up => self.up(&tunnel),
                Progress::NeedsInput(prompt) => self.needs_input(client, &name, prompt).await?,
            }
        }
        Ok(())
    }

    /// Says which tunnels are brought up because the selected ones go over their sessions.
    fn announce_carriers(&mut self, carriers: &[String]) {
        for carrier in carriers {
            let is_up = |tunnel: &TunnelStatus| matches!(tunnel.state, State::Up | State::Degraded);
            if !self.mirror.get(carrier).is_some_and(is_up) {
                self.context
                    .ui
                    .info(format!("{carrier} comes up first: it carries the others"));
            }
        }
    }

    /// Asks the prompts of the tunnels that carry `name`, and reports `name` as failed if one of them has failed.
    async fn settle_carriers(&mut self, client: &mut Client, name: &str) -> Result<(), Exit> {
        for carrier in self.mirror.carriers(&[name.to_owned()]) {
            // A carrier that was selected itself is settled as such.
            if self.pending.contains(&carrier) {
                continue;
            }
            let Some(tunnel) = self.mirror.get(&carrier).cloned() else {
                continue;
            };
            match progress(&tunnel, self.begun, false) {
                Progress::NeedsInput(prompt) => {
                    if Source::terminal().is_none() {
                        let needed = status::needed(prompt.kind);
                        let message = format!(
                            "{name} goes over {carrier}: {needed}, but there is no terminal"
                        );
                        let exit = Exit::new(FAILED, message).hint(format!(
                            "answer it in a terminal: tunnelctl answer {carrier}"
                        ));
                        self.fail(name, &exit);
                        return Ok(());
                    }
                    self.needs_input(client, &carrier, prompt).await?;
                }
                Progress::Failed(error) => {
                    let mut exit = failure(&tunnel, error);
                    let message = exit.message.unwrap_or_default();
                    exit.message = Some(format!("{name} goes over {message}"));
                    self.fail(name, &exit);
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn needs_input(
        &mut self,
        client: &mut Client,
        name: &str,
        prompt: &Prompt,
    ) -> Result<(), Exit> {
        if self.asked.contains(&prompt.id) {
            return Ok(());
        }
        let Some(source) = Source::terminal() else {
            let needed = status::needed(prompt.kind);
            let message = format!("{name}: {needed}, but there is no terminal");
            self.fail(
                name,
                &Exit::new(FAILED, message)
                    .hint(format!("answer it in a terminal: tunnelctl answer {name}")),
            );
            return Ok(());
        };
        self.asked.insert(prompt.id);
        self.ask(client, prompt, source).await
    }

    async fn ask(
        &mut self,
        client: &mut Client,
        prompt: &Prompt,
        source: Source,
    ) -> Result<(), Exit> {
        self.spinner.clear();
        let began = Instant::now();
        let mut received = Vec::new();
        let outcome = prompt::relay(self.context, client, prompt, source, &mut received).await;
        for notification in received {
            self.mirror.apply(notification);
        }
        // The limit is for the tunnel, not for the user.
        self.deadline += began.elapsed();
        outcome.map(drop)
    }

    fn up(&mut self, tunnel: &TunnelStatus) {
        self.pending.remove(&tunnel.name);
        self.spinner.clear();
        report_up(self.context, tunnel);
    }

    fn fail(&mut self, name: &str, exit: &Exit) {
        self.pending.remove(name);
        self.failed = true;
        self.spinner.clear();
        self.context.ui.exit(exit);
    }

    /// Without a spinner, which shows it, prints why the last attempt failed, once per reason: the wait of a script or of
    /// cron would else be silent.
    fn print_reason(&mut self, tunnel: &TunnelStatus) {
        let (State::Waiting, Some(error)) = (tunnel.state, &tunnel.last_error) else {
            return;
        };
        // An older failure is not what this command waits for.
        if error.at < self.begun
            || self.spinner.is_on()
            || self.reasons.get(&tunnel.name) == Some(&error.message)
        {
            return;
        }
        let line = format!("{}: {}; trying again", tunnel.name, error.message);
        self.context.ui.info(line);
        self.reasons
            .insert(tunnel.name.clone(), error.message.clone());
    }

    /// With `--verbose`, prints the state and phase of the tunnel when they have changed.
    fn print_step(&mut self, tunnel: &TunnelStatus) {
        if !self.context.ui.verbose {
            return;
        }
        let phase = tunnel
            .phase
            .map(|phase| format!(" ({})", phase.as_str()))
            .unwrap_or_default();
        let step = format!("{}: {}{phase}", tunnel.name, tunnel.state.as_str());
        if self.printed.get(&tunnel.name) != Some(&step) {
            self.spinner.clear();
            self.context.ui.verbose(&step);
            self.printed.insert(tunnel.name.clone(), step);
        }
    }

    fn spinner_line(&self) -> Line {
        let now = Timestamp::now();
        let mut line = Line::new();
        for (number, name) in self.pending.iter().enumerate() {
            let Some(tunnel) = self.mirror.get(name) else {
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
                .with(Style::Bold, name)
                .and(" ")
                .with(status::style_of(tunnel.state), tunnel.state.as_str())
                .and(step);
        }
        line.with(Style::Dim, format!("  {}", human(self.started.elapsed())))
    }

    fn timed_out(&self) -> Exit {
        let first = self.pending.first().cloned().unwrap_or_default();
        let causes = self.pending.iter().filter_map(|name| {
            let tunnel = self.mirror.get(name)?;
            let reason = tunnel
                .last_error
                .as_ref()
                .map(|error| format!(": {}", error.message))
                .unwrap_or_default();
            Some(format!("{name} is {}{reason}", tunnel.state.as_str()))
        });
        let names: Vec<&str> = self.pending.iter().map(String::as_str).collect();
        let exit = Exit {
            causes: causes.collect(),
            ..Exit::new(
                TIMED_OUT,
                format!("not up within {}: {}", human(self.limit), names.join(", ")),
            )
        };
        exit.hint(format!(
            "the daemon keeps trying, see: tunnelctl status {first}; or wait longer with --wait=2m"
        ))
    }
}

/// Reports that a tunnel is up, with the addresses it listens on and the forwards that do not work.
pub(super) fn report_up(context: &Context, tunnel: &TunnelStatus) {
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
    context.ui.info(
        Line::of(Style::Bold, &tunnel.name)
            .and(" ")
            .with(status::style_of(tunnel.state), tunnel.state.as_str())
            .with(Style::Dim, listens),
    );
    let exposed = tunnel.forwards.iter().filter(|forward| {
        // For a remote forward the server decides (GatewayPorts).
        forward.exposed
            && forward.state == ForwardState::Listening
            && forward.kind != ForwardKind::Remote
    });
    for forward in exposed {
        context.ui.info(Line::of(Style::Warn, "note").and(format!(
            ": other machines can connect to {}",
            forward.listen
        )));
    }
    // The exit code is 0, so this is the only sign of the failed forwards; it is printed even with --quiet.
    if tunnel.state == State::Degraded {
        for line in status::problems(tunnel) {
            context.ui.warn(&line);
        }
    }
}
