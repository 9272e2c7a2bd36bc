//! `answer`: the waiting prompts, asked here, and what the same logins ask after them.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;

use tunneld_proto::client::Client;
use tunneld_proto::status::{Prompt, State, TunnelStatus};

use super::follow::{Change, Following, lost};
use super::wait::{failure, say_up};
use crate::cli::{Answer, Which};
use crate::daemon::Context;
use crate::exit::{Exit, FAILED, INTERRUPTED, NO_DAEMON};
use crate::output::line::{Ink, Line};
use crate::prompt::{self, Outcome, Source};
use crate::select::{matches, select};

/// Runs the command.
pub(crate) async fn run(context: &Context, asked: &Answer) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let following = Following::begin(&mut client).await?;
    if let Some(name) = &asked.name {
        let names = vec![name.clone()];
        select(
            &following.all(),
            &Which {
                names,
                ..Which::default()
            },
        )?;
    }
    let mut answering = Answering {
        context,
        following,
        name: asked.name.as_deref(),
        source: source(),
        asked: BTreeSet::new(),
        open: BTreeSet::new(),
        failed: false,
    };
    if context.ui.json {
        let prompts: Vec<&Prompt> = answering.waiting().collect();
        return context.ui.json(&prompts);
    }
    if answering.waiting().next().is_none() {
        context.ui.say("nothing waits for an answer");
        return Ok(());
    }
    if answering.source == Source::Terminal {
        prompt::attend(&mut client, &answering.whom()).await?;
    }
    answering.run(&mut client).await
}

fn source() -> Source {
    match Source::terminal() {
        Some(terminal) if std::io::stdin().is_terminal() => terminal,
        _ => Source::Stdin,
    }
}

struct Answering<'a> {
    context: &'a Context,
    following: Following,
    /// Whose prompts; everybody's where nobody is named.
    name: Option<&'a str>,
    source: Source,
    /// Prompts that were asked here.
    asked: BTreeSet<u64>,
    /// Tunnels whose prompt was answered, and which have neither come up nor failed.
    open: BTreeSet<String>,
    failed: bool,
}

impl Answering<'_> {
    /// One login after another, each to its end: its next question comes before another's first.
    async fn run(&mut self, client: &mut Client) -> Result<(), Exit> {
        loop {
            self.settle();
            if let Some(prompt) = self.next() {
                self.ask(client, &prompt).await?;
                continue;
            }
            if self.open.is_empty() {
                break;
            }
            tokio::select! {
                said = client.notification() => {
                    if self.following.hear(said?.ok_or_else(lost)?) == Change::Bye {
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

    /// Whose prompts are asked here; nobody stands for everybody.
    fn whom(&self) -> Vec<String> {
        if self.name.is_none() {
            return Vec::new();
        }
        let whose = self.waiting().flat_map(|prompt| self.whose(prompt));
        let names: BTreeSet<String> = whose.map(str::to_owned).collect();
        names.into_iter().collect()
    }

    /// The prompts that are meant and were not asked yet.
    fn waiting(&self) -> impl Iterator<Item = &Prompt> {
        self.following.prompts().iter().filter(|prompt| {
            let mut whose = self.whose(prompt);
            let meant = self
                .name
                .is_none_or(|name| whose.any(|whose| matches(name, whose)));
            meant && !self.asked.contains(&prompt.id)
        })
    }

    fn next(&self) -> Option<Prompt> {
        if self.open.is_empty() {
            return self.waiting().next().cloned();
        }
        let ours = |prompt: &&Prompt| {
            !self.asked.contains(&prompt.id)
                && self.whose(prompt).any(|whose| self.open.contains(whose))
        };
        self.following.prompts().iter().find(ours).cloned()
    }

    /// The tunnel that asks, and those that wait for the same answer beside it.
    fn whose<'a>(&'a self, prompt: &'a Prompt) -> impl Iterator<Item = &'a str> {
        let waits = |tunnel: &&TunnelStatus| {
            let theirs = tunnel.prompt.as_ref();
            theirs.is_some_and(|theirs| theirs.id == prompt.id)
        };
        let beside = self.following.tunnels().filter(waits);
        std::iter::once(prompt.tunnel.as_str()).chain(beside.map(|tunnel| tunnel.name.as_str()))
    }

    async fn ask(&mut self, client: &mut Client, prompt: &Prompt) -> Result<(), Exit> {
        self.asked.insert(prompt.id);
        let whose: Vec<String> = self.whose(prompt).map(str::to_owned).collect();
        let mut heard = Vec::new();
        let outcome = prompt::relay(self.context, client, prompt, self.source, &mut heard).await?;
        for said in heard {
            self.following.hear(said);
        }
        let (ink, word) = match outcome {
            Outcome::Answered => (Ink::Good, "answered"),
            Outcome::Cancelled => (Ink::Warn, "cancelled"),
            Outcome::Gone => (Ink::Dim, "not needed any more"),
        };
        match outcome {
            Outcome::Answered => self.open.extend(whose),
            Outcome::Cancelled => {
                self.failed = true;
                self.open.remove(&prompt.tunnel);
            }
            Outcome::Gone => {}
        }
        self.context
            .ui
            .say(Line::of(Ink::Bold, &prompt.tunnel).and(" ").with(ink, word));
        Ok(())
    }

    /// Tells of the tunnels that have come to their end.
    fn settle(&mut self) {
        let open = std::mem::take(&mut self.open);
        for name in open {
            let exit = match self.following.get(&name) {
                None => Exit::new(FAILED, format!("{name} was removed meanwhile"))
                    .hint("tunnelctl status shows all there are"),
                Some(tunnel) => match tunnel.state {
                    State::Up | State::Degraded | State::Idle => {
                        say_up(self.context, tunnel);
                        continue;
                    }
                    State::Waiting | State::Failed => failure(tunnel, tunnel.last_error.as_ref()),
                    State::Stopped => Exit::new(FAILED, format!("{name} was stopped meanwhile"))
                        .hint(format!("start it again: tunnelctl up {name}")),
                    State::Connecting | State::NeedsInput | State::Unknown => {
                        self.open.insert(name);
                        continue;
                    }
                },
            };
            self.failed = true;
            self.context.ui.exit(&exit);
        }
    }
}
