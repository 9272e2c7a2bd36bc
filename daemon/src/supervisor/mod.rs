//! All tunnels by name: started, commanded, replaced, removed. The supervisor is the only owner of the tunnels' tasks.
//!
//! [`Supervisor`] is the handle that the rest of the daemon uses; the task behind it is in `actor`.

mod actor;
mod handover;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{Event, ReloadReport, Snapshot};
use tunneld_proto::status::{Prompt, State, TunnelStatus};

use crate::forward::ServerListeners;
use crate::session::connect_limiter::ConnectLimiter;
use crate::session::{DialState, Session};
use crate::state_file::StateFile;
use crate::tunnel::answer_cache::SharedAnswers;
use crate::tunnel::interactive_clients::ClientGuard;
use crate::tunnel::refresh::{RefreshHandle, RefreshRequest};
use crate::tunnel::registry::StatusRegistry;
use crate::tunnel::tally::Tally;
use crate::tunnel::task::{SystemChange, TaskContext, UserCommand};
use tunneld_config::model::{ProxyLogin, Tunnel};

use actor::Actor;

/// How long all tunnels together may take to stop. After that their tasks are aborted.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How long a reload waits for tunnels to release addresses that others need. After that the new owners retry.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Commands that may wait for one tunnel, and requests that may wait for the supervisor.
const COMMAND_QUEUE: usize = 64;

/// A handle to the supervisor. Clones send to the same one.
#[derive(Clone)]
pub struct Supervisor {
    requests: mpsc::Sender<SupervisorRequest>,
    registry: StatusRegistry,
    connect_limiter: ConnectLimiter,
    refresh: RefreshHandle,
}

enum SupervisorRequest {
    Apply {
        tunnels: Vec<Tunnel>,
        reply: oneshot::Sender<Applied>,
    },
    Add {
        tunnel: Box<Tunnel>,
        /// The keys to record in the state file. `None` for a tunnel that is restored from it.
        keys: Option<Value>,
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    Remove {
        name: String,
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    Command {
        names: Vec<String>,
        command: UserCommand,
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    Answer {
        id: u64,
        /// One answer per field. `None` cancels the prompt.
        answers: Option<Vec<SecretString>>,
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    Broadcast(SystemChange),
    Alive(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// The names of the tunnels that a new configuration affected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Tunnels that the configuration did not have before.
    pub added: Vec<String>,
    /// Tunnels whose configuration differs from the one before.
    pub changed: Vec<String>,
    /// Tunnels that the configuration no longer has.
    pub removed: Vec<String>,
}

impl Supervisor {
    /// Starts a supervisor without tunnels on `tasks`. At most `max_connects` handshakes run at once.
    pub fn start(max_connects: usize, state_file: Arc<StateFile>, tasks: &mut JoinSet<()>) -> Self {
        let (requests, inbox) = mpsc::channel(COMMAND_QUEUE);
        let registry = StatusRegistry::new();
        let connect_limiter = ConnectLimiter::new(max_connects);
        let refresh = RefreshHandle::default();
        let context = TaskContext {
            registry: registry.clone(),
            last_prompt_id: Arc::new(AtomicU64::new(0)),
            answers: SharedAnswers::default(),
            listeners: ServerListeners::default(),
            dials: DialState::new(connect_limiter.clone()),
            refresh: refresh.clone(),
        };
        tasks.spawn(Actor::new(context, state_file).run(inbox));
        Self {
            requests,
            registry,
            connect_limiter,
            refresh,
        }
    }

    /// The queue of tunnels that want their configuration resolved again before they dial. `None` after the first call.
    pub fn take_refresh_requests(&self) -> Option<mpsc::Receiver<RefreshRequest>> {
        self.refresh.take_requests()
    }

    /// Changes how many handshakes may run at once. Those that run already continue.
    pub fn limit_connects(&self, max_connects: usize) {
        self.connect_limiter.resize(max_connects);
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> SupervisorRequest,
    ) -> Result<T, RpcError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Makes the configured tunnels equal to `tunnels`: starts, replaces and removes as needed. Tunnels made on the
    /// command line stay.
    ///
    /// # Errors
    /// `stopping`.
    pub async fn apply(&self, tunnels: Vec<Tunnel>) -> Result<Applied, RpcError> {
        self.request(|reply| SupervisorRequest::Apply { tunnels, reply })
            .await
    }

    /// Adds a tunnel made on the command line, brings it up, and records `keys`, those of `[tunnel.NAME]`, for the next
    /// start of the daemon.
    ///
    /// # Errors
    /// `tunnel_exists`, `stopping`.
    pub async fn add(&self, tunnel: Tunnel, keys: Value) -> Result<(), RpcError> {
        self.add_with_keys(tunnel, Some(keys)).await
    }

    /// Adds a tunnel that the state file has from an earlier daemon, in the state in which the user left it.
    ///
    /// # Errors
    /// `tunnel_exists`, `stopping`.
    pub async fn restore(&self, tunnel: Tunnel) -> Result<(), RpcError> {
        self.add_with_keys(tunnel, None).await
    }

    async fn add_with_keys(&self, tunnel: Tunnel, keys: Option<Value>) -> Result<(), RpcError> {
        self.request(|reply| SupervisorRequest::Add {
            tunnel: Box::new(tunnel),
            keys,
            reply,
        })
        .await?
    }

    /// Removes a tunnel made on the command line. Returns when it has left the status, at most 5 s later.
    ///
    /// # Errors
    /// `tunnel_not_found`; `invalid_params` for a configured tunnel; `stopping`.
    pub async fn remove(&self, name: &str) -> Result<(), RpcError> {
        let mut events = self.registry.subscribe().1;
        self.request(|reply| SupervisorRequest::Remove {
            name: name.to_owned(),
            reply,
        })
        .await??;
        let removed = async {
            // The registry is checked after each event, so a missed one does no harm.
            while self.registry.status(name).is_some() && events.recv().await.is_ok() {}
        };
        // The tunnel's task ends by itself, even if nothing waits for it.
        let _ = timeout(STOP_GRACE, removed).await;
        Ok(())
    }

    /// Brings tunnels up and keeps them up.
    ///
    /// # Errors
    /// `tunnel_not_found` if one of them does not exist; then no tunnel changes. `stopping`.
    pub async fn up(&self, names: &[String]) -> Result<(), RpcError> {
        self.command(names, UserCommand::Up).await
    }

    /// Brings tunnels down and keeps them down.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub async fn down(&self, names: &[String]) -> Result<(), RpcError> {
        self.command(names, UserCommand::Down).await
    }

    /// Replaces the sessions of tunnels by new ones. Brings up those that are down.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub async fn restart(&self, names: &[String]) -> Result<(), RpcError> {
        self.command(names, UserCommand::Restart).await
    }

    async fn command(&self, names: &[String], command: UserCommand) -> Result<(), RpcError> {
        self.request(|reply| SupervisorRequest::Command {
            names: names.to_vec(),
            command,
            reply,
        })
        .await?
    }

    /// Answers a prompt, with one answer per field.
    ///
    /// # Errors
    /// `prompt_not_found`; `invalid_answer`, and then the prompt stays open; `stopping`.
    pub async fn answer(&self, id: u64, answers: Vec<SecretString>) -> Result<(), RpcError> {
        self.answer_or_cancel(id, Some(answers)).await
    }

    /// Cancels a prompt.
    ///
    /// # Errors
    /// `prompt_not_found`, `stopping`.
    pub async fn cancel(&self, id: u64) -> Result<(), RpcError> {
        self.answer_or_cancel(id, None).await
    }

    async fn answer_or_cancel(
        &self,
        id: u64,
        answers: Option<Vec<SecretString>>,
    ) -> Result<(), RpcError> {
        self.request(|reply| SupervisorRequest::Answer { id, answers, reply })
            .await?
    }

    /// Reports to all tunnels that the machine's network changed.
    pub async fn network_changed(&self) {
        self.broadcast(SystemChange::Network).await;
    }

    /// Reports to all tunnels that the machine woke from sleep.
    pub async fn woke(&self) {
        self.broadcast(SystemChange::Woke).await;
    }

    async fn broadcast(&self, change: SystemChange) {
        // Fails only if the daemon is stopping.
        let _ = self
            .requests
            .send(SupervisorRequest::Broadcast(change))
            .await;
    }

    /// Returns once the supervisor has handled all earlier requests. For the watchdog.
    ///
    /// # Errors
    /// `stopping`.
    pub async fn alive(&self) -> Result<(), RpcError> {
        self.request(SupervisorRequest::Alive).await
    }

    /// Stops every tunnel. Takes at most 5 s for all together.
    pub async fn stop(&self) {
        // Fails only if the supervisor has stopped already.
        let _ = self.request(SupervisorRequest::Stop).await;
    }

    /// The status of every tunnel, sorted by name.
    pub fn statuses(&self) -> Vec<TunnelStatus> {
        self.registry.statuses()
    }

    /// The status and the counters of every tunnel, sorted by name.
    pub fn measurements(&self) -> Vec<(TunnelStatus, Tally)> {
        self.registry.measurements()
    }

    /// The proxy auto-configuration file for all tunnels.
    pub fn pac(&self) -> String {
        self.registry.pac()
    }

    /// The open prompts, oldest first.
    pub fn prompts(&self) -> Vec<Prompt> {
        self.registry.prompts()
    }

    /// The tunnel's `on_needs_input` command. Empty if it has none or does not exist.
    pub fn on_needs_input(&self, name: &str) -> Vec<String> {
        self.registry.on_needs_input(name)
    }

    /// The login of the tunnel's proxy. `None` if it needs none.
    ///
    /// # Errors
    /// `tunnel_not_found`.
    pub fn proxy_login(&self, name: &str) -> Result<Option<ProxyLogin>, RpcError> {
        let exists = self.registry.status(name).is_some();
        if !exists {
            return Err(not_found(&[name]));
        }
        Ok(self.registry.proxy_login(name))
    }

    /// Registers a client that shows the prompts of these tunnels at a terminal, until the guard is dropped; of all
    /// tunnels if `names` is empty.
    pub fn attend(&self, names: Vec<String>) -> ClientGuard {
        self.registry.attend(names)
    }

    /// Waits until no client shows this prompt at a terminal.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_until_unattended(&self, prompt: &Prompt) {
        self.registry.wait_until_unattended(prompt).await;
    }

    /// The live session of a tunnel.
    ///
    /// # Errors
    /// `tunnel_not_found`, `not_up`.
    pub fn session(&self, name: &str) -> Result<Session, RpcError> {
        let status = self
            .registry
            .status(name)
            .ok_or_else(|| not_found(&[name]))?;
        self.registry
            .session(name)
            // The registry may still show a session that has just ended.
            .filter(|session| !session.is_closed())
            .ok_or_else(|| {
                RpcError::new(
                    ErrorKind::NotUp,
                    format!("the tunnel {name} is {}", status.state.as_str()),
                )
                .hint(format!("run: tunnelctl up {name}"))
            })
    }

    /// The live session of a tunnel. While the tunnel connects, waits for it as long as its listeners hold a new connection
    /// (`hold`).
    ///
    /// # Errors
    /// `tunnel_not_found`; `not_up`, at once if the tunnel is stopped, has failed or waits for an answer.
    pub async fn held_session(&self, name: &str) -> Result<Session, RpcError> {
        // Before the first look, so that no change falls between the two.
        let mut events = self.registry.subscribe().1;
        let hold = self.registry.hold(name).unwrap_or_default();
        let found = timeout(hold, async {
            loop {
                let error = match self.session(name) {
                    Ok(session) => return Ok(session),
                    Err(error) => error,
                };
                let is_connecting = self.registry.status(name).is_some_and(|status| {
                    matches!(
                        status.state,
                        // `Up`: the session has just ended, and the task does not know yet.
                        State::Connecting | State::Waiting | State::Up | State::Degraded
                    )
                });
                if !is_connecting || matches!(events.recv().await, Err(RecvError::Closed)) {
                    return Err(error);
                }
            }
        });
        // The last error after the time: it names the state.
        found.await.unwrap_or_else(|_| self.session(name))
    }

    /// Returns the current state of everything, and every event after it.
    pub fn subscribe(&self) -> (Snapshot, broadcast::Receiver<Event>) {
        self.registry.subscribe()
    }

    /// Sends the event that the configuration was read again.
    pub fn announce_reload(&self, report: ReloadReport) {
        self.registry.announce_reload(report);
    }
}

fn stopping() -> RpcError {
    RpcError::new(ErrorKind::Stopping, "the daemon is stopping")
        .hint("start it again and repeat the command")
}

fn not_found(names: &[&str]) -> RpcError {
    let message = match names {
        [name] => format!("no tunnel is named {name}"),
        _ => format!("no tunnels are named {}", names.join(", ")),
    };
    RpcError::new(ErrorKind::TunnelNotFound, message).hint("run: tunnelctl status")
}

#[cfg(test)]
mod tests;
