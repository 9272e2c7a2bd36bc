//! Programs that are run when a tunnel waits for an answer of the user: the tunnel's `on_needs_input` hook, and
//! SSH_ASKPASS if there is a display.
//!
//! This module learns of prompts from the same events as a client of the control socket, and answers like one.

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
use tunneld_platform::subprocess;

/// Longest run of a hook; then it is killed.
const HOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Hooks that run at the same time; others wait.
const MAX_CONCURRENT_HOOKS: usize = 4;
/// Delay before the askpass window opens, so that a waiting `tunnelctl up` or another client can show the prompt first.
const ASKPASS_DELAY: Duration = Duration::from_secs(2);

/// Program that asks the user in a window, as `SSH_ASKPASS` of ssh(1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Askpass(String);

impl Askpass {
    /// Returns the program if ssh would use it when it has no terminal. `None` if `SSH_ASKPASS` is not set, neither
    /// `DISPLAY` nor `WAYLAND_DISPLAY` is set, or `SSH_ASKPASS_REQUIRE` is `never`; with `force` no display is needed.
    pub(crate) fn from_env(env: &dyn Fn(&str) -> Option<OsString>) -> Option<Self> {
        let var = |name| env(name).filter(|value| !value.is_empty());
        let program = var("SSH_ASKPASS")?.into_string().ok()?;
        let display = || var("DISPLAY").is_some() || var("WAYLAND_DISPLAY").is_some();
        let usable = match var("SSH_ASKPASS_REQUIRE") {
            Some(require) if require.eq_ignore_ascii_case("never") => false,
            Some(require) if require.eq_ignore_ascii_case("force") => true,
            _ => display(),
        };
        usable.then_some(Self(program))
    }

    /// Opens one window per field and returns the answers. Fails if the user declines one.
    async fn ask(&self, prompt: &Prompt) -> Result<Vec<SecretString>, String> {
        let mut answers = Vec::with_capacity(prompt.fields.len());
        for field in &prompt.fields {
            let question = format!("{}\n{}", prompt.text, field.label);
            answers.push(subprocess::first_line(&[self.0.clone(), question]).await?);
        }
        Ok(answers)
    }
}

/// Task that starts hooks and askpass windows for new prompts.
pub(crate) struct Hooks {
    supervisor: Supervisor,
    askpass: Option<Askpass>,
    /// Open prompts by id. Dropping a guard closes the prompt's window and cancels a hook that has not started.
    open_prompts: BTreeMap<u64, DropGuard>,
    running: JoinSet<()>,
    hook_permits: Arc<Semaphore>,
    /// One permit: windows open one after another, so that the user never types into the wrong one.
    window_permit: Arc<Semaphore>,
}

impl Hooks {
    /// Returns the task for all tunnels of `supervisor`; without `askpass` it runs hooks only.
    pub(crate) fn new(supervisor: Supervisor, askpass: Option<Askpass>) -> Self {
        Self {
            supervisor,
            askpass,
            open_prompts: BTreeMap::new(),
            running: JoinSet::new(),
            hook_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_HOOKS)),
            window_permit: Arc::new(Semaphore::new(1)),
        }
    }

    /// Runs until the daemon stops, and then kills the programs that still run.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let (snapshot, mut events) = self.supervisor.subscribe();
        self.set_open_prompts(snapshot.prompts);
        loop {
            let event = tokio::select! {
                () = stopping.cancelled() => break,
                event = events.recv() => event,
                // Finished tasks are removed, or the set would grow for as long as the daemon runs.
                Some(_) = self.running.join_next() => continue,
            };
            match event.map(|event| event.body) {
                Ok(EventBody::Prompt { prompt }) => self.open(prompt),
                Ok(EventBody::PromptGone { id }) => drop(self.open_prompts.remove(&id)),
                Ok(EventBody::Bye) | Err(RecvError::Closed) => break,
                Ok(_) => {}
                // Prompts may be among the missed events: start again from a snapshot.
                Err(RecvError::Lagged(_)) => {
                    let (snapshot, new_events) = self.supervisor.subscribe();
                    events = new_events;
                    self.set_open_prompts(snapshot.prompts);
                }
            }
        }
        self.running.shutdown().await;
    }

    /// Replaces the set of open prompts.
    fn set_open_prompts(&mut self, prompts: Vec<Prompt>) {
        let ids: BTreeSet<u64> = prompts.iter().map(|prompt| prompt.id).collect();
        self.open_prompts.retain(|id, _| ids.contains(id));
        for prompt in prompts {
            self.open(prompt);
        }
    }

    /// Starts the programs for a prompt, unless it is open already.
    fn open(&mut self, prompt: Prompt) {
        // The tunnel is up while it asks whether to store further host keys: not worth interrupting the user.
        if self.open_prompts.contains_key(&prompt.id) || prompt.kind == PromptKind::HostKeyUpdate {
            return;
        }
        let closed = CancellationToken::new();
        self.open_prompts
            .insert(prompt.id, closed.clone().drop_guard());
        let argv = self.supervisor.on_needs_input(&prompt.tunnel);
        if !argv.is_empty() {
            let (permits, prompt, closed) =
                (self.hook_permits.clone(), prompt.clone(), closed.clone());
            self.running.spawn(async move {
                // A hook that has started runs to its end, even if the prompt is closed meanwhile.
                if let Some(Ok(_permit)) = closed.run_until_cancelled(permits.acquire()).await {
                    run_hook(&argv, &prompt).await;
                }
            });
        }
        if let Some(askpass) = self.askpass.clone() {
            let (supervisor, window_permit) = (self.supervisor.clone(), self.window_permit.clone());
            self.running.spawn(async move {
                let asking = ask(&askpass, &prompt, &supervisor, &window_permit);
                let _answered_elsewhere = closed.run_until_cancelled(asking).await;
            });
        }
    }
}

/// Runs the tunnel's `on_needs_input` and logs a failure.
async fn run_hook(argv: &[String], prompt: &Prompt) {
    let reason = reason(prompt);
    let vars = [
        ("TUNNELD_NAME", prompt.tunnel.as_str()),
        ("TUNNELD_STATE", State::NeedsInput.as_str()),
        ("TUNNELD_HOST", prompt.host.as_str()),
        ("TUNNELD_REASON", reason.as_str()),
    ];
    if let Err(error) = subprocess::run(argv, &vars, HOOK_TIMEOUT).await {
        tracing::warn!(tunnel = prompt.tunnel, "on_needs_input: {error}");
    }
}

/// The kind and the text of the prompt; by keyboard-interactive the labels too, which are the server's question there.
fn reason(prompt: &Prompt) -> String {
    let mut reason = format!("{}: {}", prompt.kind.as_str(), prompt.text);
    if prompt.kind == PromptKind::KeyboardInteractive {
        for field in &prompt.fields {
            reason.push('\n');
            reason.push_str(field.label.trim_end());
        }
    }
    reason
}

/// Asks the user in a window and passes on the answers. The caller cancels it when the prompt is answered elsewhere.
async fn ask(
    askpass: &Askpass,
    prompt: &Prompt,
    supervisor: &Supervisor,
    window_permit: &Semaphore,
) {
    let tunnel = prompt.tunnel.as_str();
    sleep(ASKPASS_DELAY).await;
    // Waits while an interactive client shows the prompt on its terminal.
    supervisor.wait_until_unattended(prompt).await;
    let Ok(_permit) = window_permit.acquire().await else {
        return;
    };
    // An interactive client may have connected while this prompt waited for the permit.
    supervisor.wait_until_unattended(prompt).await;
    match askpass.ask(prompt).await {
        Ok(answers) => {
            if let Err(error) = supervisor.answer(prompt.id, answers).await {
                tracing::warn!(tunnel, "the answer of SSH_ASKPASS was rejected: {error}");
            }
        }
        // Usually the user has closed the window. The prompt stays open for other clients.
        Err(error) => tracing::info!(
            tunnel,
            "SSH_ASKPASS gave no answer: {error}; run: tunnelctl answer {tunnel}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use tunneld_proto::status::PromptField;

    use super::*;

    fn askpass(vars: &[(&str, &str)]) -> Option<Askpass> {
        let find = |name: &str| vars.iter().find(|(known, _)| *known == name);
        Askpass::from_env(&|name| find(name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn the_reason_contains_the_question_of_the_server() {
        let field = |label: &str| PromptField {
            label: label.to_owned(),
            echo: false,
        };
        let prompt = Prompt {
            id: 1,
            tunnel: "t".into(),
            kind: PromptKind::KeyboardInteractive,
            host: "ada@h:22".into(),
            text: "ada@h:22 asks:\n> Welcome".into(),
            fields: vec![field("(ada@h:22) Code: "), field("(ada@h:22) PIN: ")],
            fingerprint: None,
            since: jiff::Timestamp::now(),
        };
        assert_eq!(
            reason(&prompt),
            "keyboard_interactive: ada@h:22 asks:\n> Welcome\n(ada@h:22) Code:\n(ada@h:22) PIN:"
        );
    }

    #[test]
    fn askpass_is_used_in_the_same_cases_as_by_ssh_without_a_terminal() {
        let program = ("SSH_ASKPASS", "/bin/ask");
        let force = ("SSH_ASKPASS_REQUIRE", "force");
        let used = Some(Askpass("/bin/ask".into()));
        assert_eq!(askpass(&[program]), None);
        assert_eq!(askpass(&[program, ("DISPLAY", "")]), None);
        assert_eq!(askpass(&[program, ("DISPLAY", ":0")]), used);
        assert_eq!(askpass(&[program, ("WAYLAND_DISPLAY", "wayland-0")]), used);
        assert_eq!(askpass(&[program, force]), used);
        assert_eq!(askpass(&[program, ("SSH_ASKPASS_REQUIRE", "FORCE")]), used);
        let never = ("SSH_ASKPASS_REQUIRE", "never");
        assert_eq!(askpass(&[program, ("DISPLAY", ":0"), never]), None);
        assert_eq!(askpass(&[("DISPLAY", ":0"), force]), None);
    }
}
