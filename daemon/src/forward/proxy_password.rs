//! The password of a proxy with `proxy_user`: runs its command once, for all clients that log in meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::warn;
use tunneld_platform::subprocess;

/// How long the command may run, such as until a person has unlocked the keyring.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a failure of the command counts. Clients connect at any rate and must not start processes at that rate.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What the command has printed, or that it failed.
#[derive(Clone)]
pub(super) enum Outcome {
    Password(SecretString),
    Failed { why: Arc<str>, at: Instant },
}

/// One run of the command. The receiver has `None` while it runs.
struct CommandRun {
    command: Vec<String>,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl CommandRun {
    /// Whether its outcome, present or future, is the answer for `command`.
    fn counts_for(&self, command: &[String]) -> bool {
        let expired = match &*self.outcome.borrow() {
            Some(Outcome::Failed { at, .. }) => at.elapsed() >= RETRY_AFTER,
            Some(Outcome::Password(_)) => false,
            // The task was cancelled, so no outcome will come.
            None => self.outcome.has_changed().is_err(),
        };
        self.command == command && !expired
    }
}

/// The password of the tunnel's proxy, read when a client first sends one.
#[derive(Default)]
pub(super) struct ProxyPassword(Mutex<Option<CommandRun>>);

impl ProxyPassword {
    /// Discards the password: the command runs again when the next client logs in.
    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }

    /// Returns what `command` has printed, and runs it by `spawn` if it has not been run. Clients that log in meanwhile wait for the
    /// same run.
    pub(super) async fn read(
        &self,
        tunnel: &str,
        command: &[String],
        spawn: impl FnOnce(BoxFuture<'static, ()>),
    ) -> Outcome {
        let mut outcome = {
            let mut run = self.0.lock();
            match &*run {
                Some(run) if run.counts_for(command) => run.outcome.clone(),
                _ => {
                    let outcome = start(tunnel, command.to_vec(), spawn);
                    *run = Some(CommandRun {
                        command: command.to_vec(),
                        outcome: outcome.clone(),
                    });
                    outcome
                }
            }
        };
        let finished = outcome.wait_for(Option::is_some).await;
        let finished = finished.ok().and_then(|outcome| outcome.clone());
        finished.unwrap_or_else(|| failed("the tunnel is being stopped"))
    }
}

fn failed(why: &str) -> Outcome {
    Outcome::Failed {
        why: why.into(),
        at: Instant::now(),
    }
}

/// Runs the command in a task of its own, because a client that gives up must not end it: the next client would start it
/// again, and ask the person at the keyring again.
fn start(
    tunnel: &str,
    command: Vec<String>,
    spawn: impl FnOnce(BoxFuture<'static, ()>),
) -> watch::Receiver<Option<Outcome>> {
    let (sender, receiver) = watch::channel(None);
    let tunnel = tunnel.to_owned();
    spawn(Box::pin(async move {
        let outcome = match timeout(COMMAND_TIMEOUT, subprocess::first_line(&command)).await {
            Ok(Ok(password)) => Outcome::Password(password),
            Ok(Err(why)) => failed(&why),
            Err(_) => failed("it has not ended within a minute"),
        };
        if let Outcome::Failed { why, .. } = &outcome {
            warn!(
                tunnel,
                "logins to the proxy are refused: proxy_user_password_command: {why}"
            );
        }
        // Fails if a reload has discarded this run and no client waits for it.
        let _ = sender.send(Some(outcome));
    }));
    receiver
}
