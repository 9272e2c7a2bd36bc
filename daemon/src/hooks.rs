//! What is run for a prompt that waits: the tunnel's `on_needs_input`, and the person's SSH_ASKPASS where a display is.
//! Both hear of prompts by the events that every client hears; an askpass answers as every client does.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tunneld_proto::message::EventBody;
use tunneld_proto::status::{Prompt, PromptKind, State};

use crate::supervisor::Supervisor;
use tunneld_platform::subprocess as command;

/// How long a hook may run.
const LIMIT: Duration = Duration::from_secs(10);
/// How many hooks run at once; the others wait their turn.
const AT_ONCE: usize = 4;
/// How long a terminal that waits, or whoever else hears of prompts, has before a window opens.
const TERMINAL_FIRST: Duration = Duration::from_secs(2);

/// The program that asks in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Askpass(String);

impl Askpass {
    /// SSH_ASKPASS, where ssh would use it without a terminal.
    pub(crate) fn of(env: &dyn Fn(&str) -> Option<OsString>) -> Option<Self> {
        let set = |name| env(name).filter(|value| !value.is_empty());
        let program = set("SSH_ASKPASS")?.into_string().ok()?;
        let display = || set("DISPLAY").is_some() || set("WAYLAND_DISPLAY").is_some();
        let usable = match set("SSH_ASKPASS_REQUIRE") {
            Some(require) if require.eq_ignore_ascii_case("never") => false,
            Some(require) if require.eq_ignore_ascii_case("force") => true,
            _ => display(),
        };
        usable.then_some(Self(program))
    }

    /// Asks for every field in turn; an error where one is declined.
    async fn ask(&self, prompt: &Prompt) -> Result<Vec<SecretString>, String> {
        let mut answers = Vec::with_capacity(prompt.fields.len());
        for field in &prompt.fields {
            let question = format!("{}\n{}", prompt.text, field.label);
            answers.push(command::first_line(&[self.0.clone(), question]).await?);
        }
        Ok(answers)
    }
}

/// Hears of prompts and runs what is to be run for each.
pub(crate) struct Hooks {
    supervisor: Supervisor,
    askpass: Option<Askpass>,
    /// The prompts that wait; what is dropped ends what runs for them.
    waiting: BTreeMap<u64, DropGuard>,
    running: JoinSet<()>,
    turns: Arc<Semaphore>,
    /// A person reads one window at a time.
    window: Arc<Semaphore>,
}

impl Hooks {
    /// Hooks of all the tunnels of `supervisor`.
    pub(crate) fn new(supervisor: Supervisor, askpass: Option<Askpass>) -> Self {
        Self {
            supervisor,
            askpass,
            waiting: BTreeMap::new(),
            running: JoinSet::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            window: Arc::new(Semaphore::new(1)),
        }
    }

    /// Runs them until the daemon stops, and then kills what still runs.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let (snapshot, mut events) = self.supervisor.subscribe();
        self.take(snapshot.prompts);
        loop {
            let event = tokio::select! {
                () = stopping.cancelled() => break,
                event = events.recv() => event,
                Some(_) = self.running.join_next() => continue,
            };
            match event.map(|event| event.body) {
                Ok(EventBody::Prompt { prompt }) => self.begin(prompt),
                Ok(EventBody::PromptGone { id }) => drop(self.waiting.remove(&id)),
                Ok(EventBody::Bye) | Err(RecvError::Closed) => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    let (snapshot, fresh) = self.supervisor.subscribe();
                    events = fresh;
                    self.take(snapshot.prompts);
                }
            }
        }
        self.running.shutdown().await;
    }

    /// These prompts wait, and no others.
    fn take(&mut self, prompts: Vec<Prompt>) {
        let ids: BTreeSet<u64> = prompts.iter().map(|prompt| prompt.id).collect();
        self.waiting.retain(|id, _| ids.contains(id));
        for prompt in prompts {
            self.begin(prompt);
        }
    }

    fn begin(&mut self, prompt: Prompt) {
        // Nothing waits for the answer about further host keys: no reason to fetch a person.
        if self.waiting.contains_key(&prompt.id) || prompt.kind == PromptKind::HostKeyUpdate {
            return;
        }
        let gone = CancellationToken::new();
        self.waiting.insert(prompt.id, gone.clone().drop_guard());
        let argv = self.supervisor.on_needs_input(&prompt.tunnel);
        if !argv.is_empty() {
            let (turns, prompt, gone) = (self.turns.clone(), prompt.clone(), gone.clone());
            self.running.spawn(async move {
                // One that has begun may tell of its prompt to the end.
                if let Some(Ok(_turn)) = gone.run_until_cancelled(turns.acquire()).await {
                    tell(&argv, &prompt).await;
                }
            });
        }
        if let Some(askpass) = self.askpass.clone() {
            let (supervisor, window) = (self.supervisor.clone(), self.window.clone());
            self.running.spawn(async move {
                let asking = ask(&askpass, &prompt, &supervisor, &window);
                let _answered_elsewhere = gone.run_until_cancelled(asking).await;
            });
        }
    }
}

/// Runs a tunnel's `on_needs_input`.
async fn tell(argv: &[String], prompt: &Prompt) {
    let reason = format!("{}: {}", prompt.kind.as_str(), prompt.text);
    let vars = [
        ("TUNNELD_NAME", prompt.tunnel.as_str()),
        ("TUNNELD_STATE", State::NeedsInput.as_str()),
        ("TUNNELD_HOST", prompt.host.as_str()),
        ("TUNNELD_REASON", reason.as_str()),
    ];
    if let Err(why) = command::run(argv, &vars, LIMIT).await {
        tracing::warn!(tunnel = prompt.tunnel, "on_needs_input: {why}");
    }
}

/// Asks in a window, unless the prompt is answered before.
async fn ask(askpass: &Askpass, prompt: &Prompt, supervisor: &Supervisor, window: &Semaphore) {
    let tunnel = prompt.tunnel.as_str();
    sleep(TERMINAL_FIRST).await;
    supervisor.wait_until_unattended(prompt).await;
    let Ok(_window) = window.acquire().await else {
        return;
    };
    // Its turn may have been long in coming.
    supervisor.wait_until_unattended(prompt).await;
    match askpass.ask(prompt).await {
        Ok(answers) => {
            if let Err(error) = supervisor.answer(prompt.id, answers).await {
                tracing::warn!(tunnel, "the answer of SSH_ASKPASS is not taken: {error}");
            }
        }
        // Mostly a person who closed the window: the prompt waits on.
        Err(why) => tracing::info!(
            tunnel,
            "SSH_ASKPASS gave no answer: {why}; run: tunnelctl answer {tunnel}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vars: &[(&str, &str)]) -> Option<Askpass> {
        let find = |name: &str| vars.iter().find(|(known, _)| *known == name);
        Askpass::of(&|name| find(name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn askpass_is_used_where_ssh_without_a_terminal_uses_it() {
        let program = ("SSH_ASKPASS", "/bin/ask");
        let force = ("SSH_ASKPASS_REQUIRE", "force");
        let used = Some(Askpass("/bin/ask".into()));
        assert_eq!(of(&[program]), None);
        assert_eq!(of(&[program, ("DISPLAY", "")]), None);
        assert_eq!(of(&[program, ("DISPLAY", ":0")]), used);
        assert_eq!(of(&[program, ("WAYLAND_DISPLAY", "wayland-0")]), used);
        assert_eq!(of(&[program, force]), used);
        assert_eq!(of(&[program, ("SSH_ASKPASS_REQUIRE", "FORCE")]), used);
        let never = ("SSH_ASKPASS_REQUIRE", "never");
        assert_eq!(of(&[program, ("DISPLAY", ":0"), never]), None);
        assert_eq!(of(&[("DISPLAY", ":0"), force]), None);
    }
}
