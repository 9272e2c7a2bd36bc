//! The login of a dynamic forward with `proxy_user`: reads the password by its command and compares what clients send.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::warn;
use tunneld_config::model::ProxyLogin;
use tunneld_platform::subprocess;

use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::ssh_session::SshSession;
use crate::dynamic::ClientLogin;

/// How long the command may run, such as until a person has unlocked the keyring.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a failure of the command counts. Clients connect at any rate and must not start processes at that rate.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What the command has printed, or that it failed.
#[derive(Clone)]
enum Outcome {
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

    /// Returns what `command` has printed, and runs it if it has not been run. Clients that log in meanwhile wait for the
    /// same run.
    async fn read<S: SshSession>(
        &self,
        context: &ForwardContext<S>,
        command: &[String],
    ) -> Outcome {
        let mut outcome = {
            let mut run = self.0.lock();
            match &*run {
                Some(run) if run.counts_for(command) => run.outcome.clone(),
                _ => {
                    let outcome = start(context, command.to_vec());
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
fn start<S: SshSession>(
    context: &ForwardContext<S>,
    command: Vec<String>,
) -> watch::Receiver<Option<Outcome>> {
    let (sender, receiver) = watch::channel(None);
    let tunnel = context.tunnel.clone();
    context.spawn(async move {
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
    });
    receiver
}

/// The result of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginResult {
    Accepted,
    /// The user name or the password is wrong.
    Wrong,
    /// The password to compare with cannot be read.
    Unavailable,
}

/// Checks the logins of one forward's clients, and records the refused ones for the status.
pub(super) struct LoginCheck<'a, S: SshSession> {
    context: &'a ForwardContext<S>,
    cell: &'a ForwardCell,
    login: ProxyLogin,
}

impl<'a, S: SshSession> LoginCheck<'a, S> {
    /// Returns the check for clients of `cell`; `None` if they need no login.
    pub(super) fn of(context: &'a ForwardContext<S>, cell: &'a ForwardCell) -> Option<Self> {
        let login = context.options.borrow().forwarding.proxy_login.clone()?;
        Some(Self {
            context,
            cell,
            login,
        })
    }

    /// Compares what a client sent with the right login.
    pub(super) async fn check(&self, sent: &ClientLogin) -> LoginResult {
        let command = &self.login.password_command;
        // Before the user name is looked at, so that the time says nothing about it.
        match self
            .context
            .proxy_password
            .read(self.context, command)
            .await
        {
            Outcome::Password(password) => {
                if sent.is(&self.login.user, password.expose_secret()) {
                    return LoginResult::Accepted;
                }
                self.refused("a client sent a wrong user name or password (proxy_user)");
                LoginResult::Wrong
            }
            Outcome::Failed { why, .. } => {
                self.cell
                    .record_refusal(None, &format!("proxy_user_password_command: {why}"));
                LoginResult::Unavailable
            }
        }
    }

    /// Records a SOCKS client that cannot log in or does not.
    pub(super) fn missing(&self) {
        self.refused("a SOCKS client sent no login; proxy_user is set, so use SOCKS5 with its user name and password");
    }

    fn refused(&self, why: &str) {
        self.cell.record_refusal(None, why);
        let listen = self.cell.listen();
        self.context
            .warn_throttled(&format!("a login to the proxy {listen} is refused: {why}"));
    }
}
