//! `tunnelctl answer`: asks the open prompts here, and the further questions of the same logins.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;

use tunneld_proto::client::Client;
use tunneld_proto::status::{Prompt, State, TunnelStatus};

use super::mirror::{Change, Mirror, connection_lost};
use super::wait::{failure, removed, report_up, stopped};
use crate::cli::{Answer, Selection};
use crate::daemon::Context;
use crate::exit::{Exit, FAILED, INTERRUPTED, NO_DAEMON};
use crate::output::line::{Line, Style};
use crate::prompt::{self, Outcome, Source};
use crate::select::{matches, select};

/// Asks each open prompt, then waits until the tunnels that were answered are up; exit 1 if one fails or the user
/// cancels a prompt.
pub(crate) async fn run(context: &Context, args: &Answer) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let mirror = Mirror::subscribe(&mut client).await?;
    if let Some(name) = &args.name {
        let selection = Selection {
            names: vec![name.clone()],
            ..Selection::default()
        };
        select(&mirror.all(), &selection)?;
    }
    let mut answering = Answering {
        context,
        mirror,
        name: args.name.as_deref(),
        source: source(),
        asked: BTreeSet::new(),
        pending: BTreeSet::new(),
        failed: false,
    };
    if context.ui.json {
        let prompts: Vec<&Prompt> = answering.open_prompts().collect();
        return context.ui.json(&prompts);
    }
    if answering.open_prompts().next().is_none() {
        context.ui.info("no tunnel is waiting for an answer");
        return Ok(());
    }
    if answering.source == Source::Terminal {
        prompt::attend(&mut client, &answering.attended_tunnels()).await?;
    }
    answering.run(&mut client).await
}

fn source() -> Source {
    match Source::terminal() {
        // A script that pipes answers also has a controlling terminal, so stdin decides.
        Some(terminal) if std::io::stdin().is_terminal() => terminal,
        _ => Source::Stdin,
    }
}

struct Answering<'a> {
    context: &'a Context,
    mirror: Mirror,
    /// Name or pattern of the tunnels whose prompts are asked; `None` for all tunnels.
    name: Option<&'a str>,
    source: Source,
    /// Ids of the prompts that were asked here.
    asked: BTreeSet<u64>,
    /// Tunnels whose prompt was answered and that have neither come up nor failed yet.
    pending: BTreeSet<String>,
    failed: bool,
}

impl Answering<'_> {
    /// Completes one login after the other: the next question of a login comes before the first of another one.
    async fn run(&mut self, client: &mut Client) -> Result<(), Exit> {
        loop {
            self.report_settled();
            if let Some(prompt) = self.next_prompt() {
                self.ask(client, &prompt).await?;
                continue;
            }
            if self.pending.is_empty() {
                break;
            }
            tokio::select! {
                notification = client.notification() => {
                    let notification = notification?.ok_or_else(connection_lost)?;
                    if self.mirror.apply(notification) == Change::Bye {
                        return Err(Exit::new(NO_DAEMON, "the daemon is stopping")
                            .hint("start it again: tunnelctl up --all"));
                    }
                }
                _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
            }
        }
        if self.failed {
            return Err(Exit::silent(FAILED));
        }
        Ok(())
    }

    /// Returns the tunnels whose prompts are asked here, for `prompt.attend`; an empty list means all.
    fn attended_tunnels(&self) -> Vec<String> {
        if self.name.is_none() {
            return Vec::new();
        }
        let tunnels = self
            .open_prompts()
            .flat_map(|prompt| self.tunnels_of(prompt));
        let names: BTreeSet<String> = tunnels.map(str::to_owned).collect();
        names.into_iter().collect()
    }

    /// Returns the selected prompts that were not asked yet, oldest first.
    fn open_prompts(&self) -> impl Iterator<Item = &Prompt> {
        self.mirror.prompts().iter().filter(|prompt| {
            let mut tunnels = self.tunnels_of(prompt);
            let selected = self
                .name
                .is_none_or(|name| tunnels.any(|tunnel| matches(name, tunnel)));
            selected && !self.asked.contains(&prompt.id)
        })
    }

    fn next_prompt(&self) -> Option<Prompt> {
        if self.pending.is_empty() {
            return self.open_prompts().next().cloned();
        }
        let continues_login = |prompt: &&Prompt| {
            !self.asked.contains(&prompt.id)
                && self
                    .tunnels_of(prompt)
                    .any(|tunnel| self.pending.contains(tunnel))
        };
        self.mirror.prompts().iter().find(continues_login).cloned()
    }

    /// Returns the names of the tunnel that asks and of those that wait for the same answer.
    fn tunnels_of<'a>(&'a self, prompt: &'a Prompt) -> impl Iterator<Item = &'a str> {
        let shares_prompt = |tunnel: &&TunnelStatus| {
            let open = tunnel.prompt.as_ref();
            open.is_some_and(|open| open.id == prompt.id)
        };
        let others = self.mirror.tunnels().filter(shares_prompt);
        std::iter::once(prompt.tunnel.as_str()).chain(others.map(|tunnel| tunnel.name.as_str()))
    }

    async fn ask(&mut self, client: &mut Client, prompt: &Prompt) -> Result<(), Exit> {
        self.asked.insert(prompt.id);
        let tunnels: Vec<String> = self.tunnels_of(prompt).map(str::to_owned).collect();
        let mut received = Vec::new();
        let outcome =
            prompt::relay(self.context, client, prompt, self.source, &mut received).await?;
        for notification in received {
            self.mirror.apply(notification);
        }
        let (style, word) = match outcome {
            Outcome::Answered => (Style::Good, "answered"),
            Outcome::Cancelled => (Style::Warn, "cancelled"),
            Outcome::Gone => (Style::Dim, "no longer needed"),
        };
        match outcome {
            Outcome::Answered => self.pending.extend(tunnels),
            Outcome::Cancelled => {
                self.failed = true;
                self.pending.remove(&prompt.tunnel);
            }
            Outcome::Gone => {}
        }
        self.context.ui.info(
            Line::of(Style::Bold, &prompt.tunnel)
                .and(" ")
                .with(style, word),
        );
        Ok(())
    }

    /// Reports the pending tunnels that are up or have failed, and removes them from `pending`.
    fn report_settled(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for name in pending {
            let exit = match self.mirror.get(&name) {
                None => removed(&name),
                Some(tunnel) => match tunnel.state {
                    State::Up | State::Degraded | State::Idle => {
                        report_up(self.context, tunnel);
                        continue;
                    }
                    State::Waiting | State::Failed => failure(tunnel, tunnel.last_error.as_ref()),
                    State::Stopped => stopped(&name),
                    State::Connecting | State::NeedsInput | State::Unknown => {
                        self.pending.insert(name);
                        continue;
                    }
                },
            };
            self.failed = true;
            self.context.ui.exit(&exit);
        }
    }
}
