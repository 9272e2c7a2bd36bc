//! The supervisor's task: handles one request after the other and restarts a tunnel whose task panicked.
//!
//! It is the only writer of the desired states in the state file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::timeout;
use tracing::error;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::Event;
use tunneld_proto::status::Desired;

use super::handover::listeners_to_release;
use super::{Applied, COMMAND_QUEUE, HANDOVER_TIMEOUT, STOP_GRACE, SupervisorRequest, not_found};
use crate::state_file::StateFile;
use crate::tunnel::task::{Command, Task, TaskContext, UserCommand, prompt_not_found};
use tunneld_config::model::{Tunnel, Via};

/// A tunnel and the handles to its task. Dropping the entry removes the tunnel: its task ends by itself.
struct TunnelEntry {
    config: Arc<Tunnel>,
    commands: mpsc::Sender<Command>,
    /// Identifies the task in `Actor::tasks`.
    task: AbortHandle,
    /// Whether it was made on the command line. A reload does not remove such a tunnel.
    ad_hoc: bool,
}

impl TunnelEntry {
    async fn send(&self, command: Command) {
        // Fails only if the task has panicked; `Actor::on_task_ended` then starts it again.
        let _ = self.commands.send(command).await;
    }
}

pub(super) struct Actor {
    context: TaskContext,
    state_file: Arc<StateFile>,
    /// Tunnel name to its entry.
    tunnels: BTreeMap<String, TunnelEntry>,
    /// The tunnels' tasks. Each returns its tunnel's name.
    tasks: JoinSet<String>,
}

enum Wake {
    /// `None` if all handles to the supervisor are dropped.
    Request(Option<SupervisorRequest>),
    TaskEnded(Result<String, JoinError>),
}

impl Actor {
    pub(super) fn new(context: TaskContext, state_file: Arc<StateFile>) -> Self {
        Self {
            context,
            state_file,
            tunnels: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Runs until the supervisor is stopped, or all handles to it are dropped.
    pub(super) async fn run(self, requests: mpsc::Receiver<SupervisorRequest>) {
        let (answers, dials) = (self.context.answers.clone(), self.context.dials.clone());
        // Not in a tunnel's task: the tunnel may be removed before its secrets expire.
        tokio::select! {
            () = self.handle_requests(requests) => {}
            () = answers.wipe_expired() => {}
            () = dials.wipe_old_secrets() => {}
        }
    }

    async fn handle_requests(mut self, mut requests: mpsc::Receiver<SupervisorRequest>) {
        loop {
            let wake = tokio::select! {
                request = requests.recv() => Wake::Request(request),
                Some(ended) = self.tasks.join_next() => Wake::TaskEnded(ended),
            };
            match wake {
                Wake::Request(None) => return self.stop().await,
                Wake::Request(Some(SupervisorRequest::Stop(reply))) => {
                    self.stop().await;
                    let _ = reply.send(());
                    return;
                }
                Wake::Request(Some(request)) => self.handle(request).await,
                Wake::TaskEnded(ended) => self.on_task_ended(ended),
            }
        }
    }

    /// Handles one request. Sending a reply fails only if the caller no longer waits.
    async fn handle(&mut self, request: SupervisorRequest) {
        match request {
            SupervisorRequest::Apply { tunnels, reply } => {
                let _ = reply.send(self.apply(tunnels).await);
            }
            SupervisorRequest::Add {
                tunnel,
                keys,
                reply,
            } => {
                let _ = reply.send(self.add(*tunnel, keys));
            }
            SupervisorRequest::Remove { name, reply } => {
                let _ = reply.send(self.remove(&name));
            }
            SupervisorRequest::Command {
                names,
                command,
                reply,
            } => {
                let _ = reply.send(self.command(&names, command).await);
            }
            SupervisorRequest::Answer { id, answers, reply } => {
                self.answer(id, answers, reply).await;
            }
            SupervisorRequest::Broadcast(change) => {
                for entry in self.tunnels.values() {
                    entry.send(Command::System(change)).await;
                }
            }
            SupervisorRequest::Alive(reply) => {
                let _ = reply.send(());
            }
            // `run` handles it.
            SupervisorRequest::Stop(_) => {}
        }
    }

    /// Makes the configured tunnels equal to `tunnels`. Tunnels made on the command line stay.
    async fn apply(&mut self, tunnels: Vec<Tunnel>) -> Applied {
        let configured: BTreeSet<&str> =
            tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect();
        let is_affected =
            |name: &str, entry: &TunnelEntry| !entry.ad_hoc || configured.contains(name);
        let removed: Vec<String> = self
            .tunnels
            .iter()
            .filter(|(name, entry)| !entry.ad_hoc && !configured.contains(name.as_str()))
            .map(|(name, _)| name.clone())
            .collect();
        let before = self
            .tunnels
            .iter()
            .filter(|(name, entry)| is_affected(name, entry))
            .map(|(_, entry)| &*entry.config);
        let releasing = listeners_to_release(before, &tunnels);
        // Before the removal, so that no `Removed` event is missed.
        let events = self.context.registry.subscribe().1;
        for name in &removed {
            // The desired state stays in the state file: a configuration file may be away for a moment only.
            self.tunnels.remove(name);
        }
        if !releasing.is_empty() {
            // A tunnel that is slow to release its address delays the others only this long. Its successor then retries
            // in the background.
            let released = self.release_listeners(&releasing, &tunnels, events);
            let _ = timeout(HANDOVER_TIMEOUT, released).await;
        }
        let mut applied = Applied {
            removed,
            ..Applied::default()
        };
        for tunnel in tunnels {
            self.start_or_replace(tunnel, &mut applied).await;
        }
        applied
    }

    /// Waits until the tunnels `releasing` have stopped listening where tunnels in `after` will.
    async fn release_listeners(
        &self,
        releasing: &[String],
        after: &[Tunnel],
        mut events: broadcast::Receiver<Event>,
    ) {
        for name in releasing {
            let successor = after.iter().find(|tunnel| tunnel.name == *name);
            match successor.and_then(|tunnel| Some((tunnel, self.tunnels.get(name)?))) {
                Some((successor, entry)) => {
                    let (done, released) = oneshot::channel();
                    let keep = successor.forwards.clone();
                    entry.send(Command::ReleaseListeners { keep, done }).await;
                    let _ = released.await;
                }
                // It is being removed: it leaves the registry once its addresses are free.
                None => {
                    while self.context.registry.status(name).is_some() {
                        if let Err(RecvError::Closed) = events.recv().await {
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn start_or_replace(&mut self, tunnel: Tunnel, applied: &mut Applied) {
        let name = tunnel.name.clone();
        match self.tunnels.get_mut(&name) {
            None => {
                let desired = self.configured_desired(&tunnel);
                self.start(Arc::new(tunnel), false, desired);
                applied.added.push(name);
            }
            Some(entry) if *entry.config != tunnel => {
                entry.config = Arc::new(tunnel.clone());
                entry.ad_hoc = false;
                entry.send(Command::Replace(Box::new(tunnel))).await;
                applied.changed.push(name);
            }
            // Unchanged, or an ad-hoc tunnel that was saved as it is.
            Some(entry) => {
                entry.ad_hoc = false;
                if tunnel.forwarding.proxy_login.is_some() {
                    entry.send(Command::Reloaded).await;
                }
            }
        }
    }

    /// What to do with a configured tunnel: the last `up` or `down` takes precedence over `autostart`.
    fn configured_desired(&self, tunnel: &Tunnel) -> Desired {
        let by_configuration = if tunnel.life.autostart {
            Desired::Up
        } else {
            Desired::Down
        };
        self.state_file
            .desired(&tunnel.name)
            .unwrap_or(by_configuration)
    }

    /// Adds an ad-hoc tunnel. `keys` are recorded in the state file; `None` if it has them already.
    fn add(&mut self, tunnel: Tunnel, keys: Option<Value>) -> Result<(), RpcError> {
        let name = tunnel.name.clone();
        if self.tunnels.contains_key(&name) {
            let message = format!("a tunnel named {name} exists");
            return Err(
                RpcError::new(ErrorKind::TunnelExists, message).hint(format!(
                    "choose another with --name, or run: tunnelctl up {name}"
                )),
            );
        }
        // A restored tunnel may have been stopped before the restart.
        let desired = self.state_file.desired(&name).unwrap_or(Desired::Up);
        self.start(Arc::new(tunnel), true, desired);
        if let Some(keys) = keys {
            self.state_file.insert_ad_hoc(&name, keys);
        }
        self.state_file.set_desired(&[name], desired);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), RpcError> {
        // Before the tunnel ends, so that a reload does not restore it. Also without a running tunnel: one that could
        // not be restored would be tried at each reload.
        if self.state_file.is_ad_hoc(name) {
            self.state_file.forget(name);
        }
        match self.tunnels.get(name) {
            Some(entry) if entry.ad_hoc => {
                self.state_file.forget(name);
                self.tunnels.remove(name);
                Ok(())
            }
            Some(_) => Err(RpcError::new(
                ErrorKind::InvalidParams,
                format!("the tunnel {name} is defined in the configuration"),
            )
            .hint("remove it from its file; to stop it, run: tunnelctl down")),
            None => Err(not_found(&[name])),
        }
    }

    fn start(&mut self, config: Arc<Tunnel>, ad_hoc: bool, desired: Desired) {
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let name = config.name.clone();
        let task = Task::new(Arc::clone(&config), self.context.clone(), inbox);
        let returned_name = name.clone();
        let task = self.tasks.spawn(async move {
            task.run(desired).await;
            returned_name
        });
        let entry = TunnelEntry {
            config,
            commands,
            task,
            ad_hoc,
        };
        self.tunnels.insert(name, entry);
    }

    /// Sends the command to all named tunnels, or to none if one does not exist.
    async fn command(&mut self, names: &[String], command: UserCommand) -> Result<(), RpcError> {
        let missing: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| !self.tunnels.contains_key(*name))
            .collect();
        if !missing.is_empty() {
            return Err(not_found(&missing));
        }
        // A tunnel that is to come up needs the tunnels that carry it.
        let carriers = match command {
            UserCommand::Up | UserCommand::Restart => self.carriers(names),
            UserCommand::Down => Vec::new(),
        };
        for carrier in &carriers {
            if let Some(entry) = self.tunnels.get(carrier) {
                // Never a restart: other tunnels may go over the carrier's session.
                entry.send(Command::User(UserCommand::Up)).await;
            }
        }
        for name in names {
            if let Some(entry) = self.tunnels.get(name) {
                entry.send(Command::User(command)).await;
            }
        }
        // After the commands: the tunnels do not wait for the disk. Before the reply: what the user was promised
        // outlives a crash.
        let concerned = [carriers.as_slice(), names].concat();
        self.state_file.set_desired(&concerned, command.desired());
        Ok(())
    }

    /// Returns the tunnels that carry the tunnels `names` (`proxy_jump = "tunnel:NAME"`) and are not among them, over
    /// any number of steps, the first one to come up first.
    fn carriers(&self, names: &[String]) -> Vec<String> {
        let mut carriers: Vec<String> = Vec::new();
        for name in names {
            let mut current = name;
            let mut chain = Vec::new();
            while let Some(entry) = self.tunnels.get(current)
                && let Via::Tunnel(carrier) = &entry.config.route.via
                && !names.contains(carrier)
                && !carriers.contains(carrier)
                // The configuration refuses a circle, but a reload may be between two of its states.
                && !chain.contains(carrier)
            {
                chain.push(carrier.clone());
                current = carrier;
            }
            carriers.extend(chain.into_iter().rev());
        }
        carriers
    }

    /// Passes the answer to the tunnel that shows the prompt. The tunnel's task replies.
    async fn answer(
        &mut self,
        id: u64,
        answers: Option<Vec<SecretString>>,
        reply: oneshot::Sender<Result<(), RpcError>>,
    ) {
        let prompts = self.context.registry.prompts();
        let prompt = prompts.into_iter().find(|prompt| prompt.id == id);
        match prompt.and_then(|prompt| self.tunnels.get(&prompt.tunnel)) {
            Some(entry) => entry.send(Command::Answer { id, answers, reply }).await,
            None => drop(reply.send(Err(prompt_not_found(id)))),
        }
    }

    /// A tunnel's task has returned, which is as requested, or has panicked: then it is started again.
    fn on_task_ended(&mut self, ended: Result<String, JoinError>) {
        let Err(panic) = ended else { return };
        let Some(name) = self
            .tunnels
            .iter()
            .find(|(_, entry)| entry.task.id() == panic.id())
            .map(|(name, _)| name.clone())
        else {
            return;
        };
        error!(
            tunnel = name,
            "a bug in tunneld ended the tunnel's task; starting it again: {panic}"
        );
        if let Some(entry) = self.tunnels.remove(&name) {
            // The status that the task published last.
            let desired = self
                .context
                .registry
                .status(&name)
                .map_or(Desired::Up, |status| status.desired);
            self.start(entry.config, entry.ad_hoc, desired);
        }
    }

    async fn stop(mut self) {
        self.context.registry.announce_shutdown();
        for entry in self.tunnels.values() {
            // All at once, without waiting for a slow one. If a queue is full, the closed channel below ends the task.
            let _ = entry.commands.try_send(Command::Stop);
        }
        self.tunnels.clear();
        let _ = timeout(STOP_GRACE, async {
            while self.tasks.join_next().await.is_some() {}
        })
        .await;
        self.tasks.shutdown().await;
    }
}
