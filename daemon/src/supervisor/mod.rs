//! Every tunnel by its name: made, commanded, replaced, ended. The only owner of the tunnels' tasks.

mod actor;
mod handover;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{Event, ReloadReport, Snapshot};
use tunneld_proto::status::{Desired, Prompt, TunnelStatus};

use crate::session::Session;
use crate::tunnel::connect_limiter::ConnectLimiter;
use crate::tunnel::interactive_clients::ClientGuard;
use crate::tunnel::refresh::{RefreshHandle, RefreshRequest};
use crate::tunnel::registry::StatusRegistry;
use crate::tunnel::task::{Command, Shared};
use tunneld_config::model::Tunnel;

use actor::Actor;

/// How long all tunnels together may take to end in order.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How long the new owner of an address waits for the old one; after that it tries for itself.
const HANDOVER: Duration = Duration::from_secs(2);

/// Commands that one tunnel may be behind.
const COMMANDS: usize = 64;

/// A handle to the supervisor; clones speak to the same one.
#[derive(Clone)]
pub struct Supervisor {
    orders: mpsc::Sender<SupervisorRequest>,
    board: StatusRegistry,
    gate: ConnectLimiter,
    refresher: RefreshHandle,
    desired: watch::Receiver<BTreeMap<String, Desired>>,
}

enum SupervisorRequest {
    Apply {
        tunnels: Vec<Tunnel>,
        reply: oneshot::Sender<Applied>,
    },
    Add {
        tunnel: Box<Tunnel>,
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    Remove {
        name: String,
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    Command {
        names: Vec<String>,
        verb: Verb,
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    Answer {
        id: u64,
        answers: Option<Vec<SecretString>>,
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    Desired(BTreeMap<String, Desired>),
    All(Verb),
    Alive(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// What several tunnels are told alike.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Up,
    Down,
    Restart,
    NetworkChanged,
    Woke,
}

impl Verb {
    fn command(self) -> Command {
        match self {
            Self::Up => Command::Up,
            Self::Down => Command::Down,
            Self::Restart => Command::Restart,
            Self::NetworkChanged => Command::NetworkChanged,
            Self::Woke => Command::Woke,
        }
    }
}

/// What a new configuration came to, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// New.
    pub added: Vec<String>,
    /// Changed.
    pub changed: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
}

impl Supervisor {
    /// Starts a supervisor on `tasks`; at most `max_connects` handshakes run at once.
    pub fn start(max_connects: usize, tasks: &mut JoinSet<()>) -> Self {
        let (orders, inbox) = mpsc::channel(COMMANDS);
        let board = StatusRegistry::new();
        let gate = ConnectLimiter::new(max_connects);
        let shared = Shared {
            board: board.clone(),
            gate: gate.clone(),
            prompts: Arc::new(AtomicU64::new(0)),
            recent: Arc::default(),
            refresher: RefreshHandle::default(),
        };
        let refresher = shared.refresher.clone();
        let (told, desired) = watch::channel(BTreeMap::new());
        tasks.spawn(Actor::new(shared, told).run(inbox));
        Self {
            orders,
            board,
            gate,
            desired,
            refresher,
        }
    }

    /// Where tunnels ask for their newest state before they dial; whoever takes it first answers.
    pub fn stale(&self) -> Option<mpsc::Receiver<RefreshRequest>> {
        self.refresher.answered()
    }

    /// Lets at most `max_connects` handshakes run at once from now on.
    pub fn limit_connects(&self, max_connects: usize) {
        self.gate.resize(max_connects);
    }

    async fn order<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> SupervisorRequest,
    ) -> Result<T, RpcError> {
        let (reply, answer) = oneshot::channel();
        self.orders
            .send(make(reply))
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Makes the configured tunnels what `tunnels` says; those made on the command line stay.
    ///
    /// # Errors
    /// `stopping`.
    pub async fn apply(&self, tunnels: Vec<Tunnel>) -> Result<Applied, RpcError> {
        self.order(|reply| SupervisorRequest::Apply { tunnels, reply })
            .await
    }

    /// Adds a tunnel made on the command line and brings it up, unless the desired state says otherwise.
    ///
    /// # Errors
    /// `tunnel_exists`, `stopping`.
    pub async fn add(&self, tunnel: Tunnel) -> Result<(), RpcError> {
        self.order(|reply| SupervisorRequest::Add {
            tunnel: Box::new(tunnel),
            reply,
        })
        .await?
    }

    /// Ends and forgets a tunnel made on the command line.
    ///
    /// # Errors
    /// `tunnel_not_found`, also for a configured one; `stopping`.
    pub async fn remove(&self, name: &str) -> Result<(), RpcError> {
        let mut events = self.board.subscribe().1;
        self.order(|reply| SupervisorRequest::Remove {
            name: name.to_owned(),
            reply,
        })
        .await??;
        let gone = async {
            // What was missed is looked up.
            while self.board.status(name).is_some() && events.recv().await.is_ok() {}
        };
        // It goes by itself, whoever waits.
        let _ = timeout(STOP_GRACE, gone).await;
        Ok(())
    }

    /// Wants tunnels up.
    ///
    /// # Errors
    /// `tunnel_not_found`, and then none is touched; `stopping`.
    pub async fn up(&self, names: &[String]) -> Result<(), RpcError> {
        self.command(names, Verb::Up).await
    }

    /// Wants tunnels down.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub async fn down(&self, names: &[String]) -> Result<(), RpcError> {
        self.command(names, Verb::Down).await
    }

    /// Wants new sessions.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub async fn restart(&self, names: &[String]) -> Result<(), RpcError> {
        self.command(names, Verb::Restart).await
    }

    async fn command(&self, names: &[String], verb: Verb) -> Result<(), RpcError> {
        self.order(|reply| SupervisorRequest::Command {
            names: names.to_vec(),
            verb,
            reply,
        })
        .await?
    }

    /// Answers a prompt.
    ///
    /// # Errors
    /// `prompt_not_found`, `invalid_answer`, `stopping`.
    pub async fn answer(&self, id: u64, answers: Vec<SecretString>) -> Result<(), RpcError> {
        self.order(|reply| SupervisorRequest::Answer {
            id,
            answers: Some(answers),
            reply,
        })
        .await?
    }

    /// Cancels a prompt.
    ///
    /// # Errors
    /// `prompt_not_found`, `stopping`.
    pub async fn cancel(&self, id: u64) -> Result<(), RpcError> {
        self.order(|reply| SupervisorRequest::Answer {
            id,
            answers: None,
            reply,
        })
        .await?
    }

    /// What an earlier daemon was last told: goes before `autostart` for tunnels that come after.
    pub async fn set_desired(&self, desired: BTreeMap<String, Desired>) {
        let _ = self.orders.send(SupervisorRequest::Desired(desired)).await;
    }

    /// The machine's network has changed.
    pub async fn network_changed(&self) {
        let _ = self
            .orders
            .send(SupervisorRequest::All(Verb::NetworkChanged))
            .await;
    }

    /// The machine has woken.
    pub async fn woke(&self) {
        let _ = self.orders.send(SupervisorRequest::All(Verb::Woke)).await;
    }

    /// Returns once the supervisor's own loop has turned: what a watchdog wants to know.
    ///
    /// # Errors
    /// `stopping`.
    pub async fn alive(&self) -> Result<(), RpcError> {
        self.order(SupervisorRequest::Alive).await
    }

    /// Ends every tunnel, at most 5 s together.
    pub async fn stop(&self) {
        let _ = self.order(SupervisorRequest::Stop).await;
    }

    /// Every tunnel, by name.
    pub fn statuses(&self) -> Vec<TunnelStatus> {
        self.board.statuses()
    }

    /// The waiting prompts, oldest first.
    pub fn prompts(&self) -> Vec<Prompt> {
        self.board.prompts()
    }

    /// The command that a tunnel has for its prompts; empty where there is none.
    pub fn on_needs_input(&self, name: &str) -> Vec<String> {
        self.board.on_needs_input(name)
    }

    /// Somebody asks the prompts of these tunnels at a terminal, until what is returned is dropped.
    pub fn attend(&self, names: Vec<String>) -> ClientGuard {
        self.board.attend(names)
    }

    /// Waits until nobody asks this prompt at a terminal.
    pub async fn unattended(&self, prompt: &Prompt) {
        self.board.unattended(prompt).await;
    }

    /// The live session of a tunnel.
    ///
    /// # Errors
    /// `tunnel_not_found`, `not_up`.
    pub fn session(&self, name: &str) -> Result<Session, RpcError> {
        let status = self.board.status(name).ok_or_else(|| not_found(&[name]))?;
        self.board
            .session(name)
            .filter(|session| !session.is_closed())
            .ok_or_else(|| {
                RpcError::new(
                    ErrorKind::NotUp,
                    format!("the tunnel {name} is {}", status.state.as_str()),
                )
                .hint(format!("run: tunnelctl up {name}"))
            })
    }

    /// Everything as it stands, and every event after it.
    pub fn subscribe(&self) -> (Snapshot, broadcast::Receiver<Event>) {
        self.board.subscribe()
    }

    /// Tells subscribers that the configuration was read again.
    pub fn reloaded(&self, report: ReloadReport) {
        self.board.reloaded(report);
    }

    /// What commands last said of each tunnel, whenever it changes; a tunnel that none was about is not in it.
    pub fn desired(&self) -> watch::Receiver<BTreeMap<String, Desired>> {
        self.desired.clone()
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
