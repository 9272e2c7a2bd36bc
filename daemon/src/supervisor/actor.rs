//! The supervisor's own loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::error;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::Event;
use tunneld_proto::status::Desired;

use super::{
    Applied, COMMANDS, HANDOVER, STOP_GRACE, SupervisorRequest, Verb, handover, not_found,
};
use crate::tunnel::task::{Command, Shared, Task};
use tunneld_config::model::Tunnel;

/// One tunnel as its owner sees it.
struct TunnelEntry {
    spec: Arc<Tunnel>,
    commands: mpsc::Sender<Command>,
    abort: AbortHandle,
    /// Made on the command line.
    ad_hoc: bool,
}

pub(super) struct Actor {
    shared: Shared,
    tunnels: BTreeMap<String, TunnelEntry>,
    /// What commands said, which goes before `autostart`.
    desired: watch::Sender<BTreeMap<String, Desired>>,
    tasks: JoinSet<String>,
}

/// What woke the loop.
enum Stir {
    SupervisorRequest(Option<SupervisorRequest>),
    Ended(Result<String, tokio::task::JoinError>),
}

impl Actor {
    pub(super) fn new(shared: Shared, desired: watch::Sender<BTreeMap<String, Desired>>) -> Self {
        Self {
            shared,
            tunnels: BTreeMap::new(),
            desired,
            tasks: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<SupervisorRequest>) {
        loop {
            let stir = tokio::select! {
                order = inbox.recv() => Stir::SupervisorRequest(order),
                Some(ended) = self.tasks.join_next() => Stir::Ended(ended),
            };
            match stir {
                Stir::SupervisorRequest(None) => return self.stop().await,
                Stir::SupervisorRequest(Some(SupervisorRequest::Stop(reply))) => {
                    self.stop().await;
                    let _ = reply.send(());
                    return;
                }
                Stir::SupervisorRequest(Some(order)) => self.obey(order).await,
                Stir::Ended(ended) => self.ended(ended),
            }
        }
    }

    async fn obey(&mut self, order: SupervisorRequest) {
        match order {
            SupervisorRequest::Apply { tunnels, reply } => {
                let _ = reply.send(self.apply(tunnels).await);
            }
            SupervisorRequest::Add { tunnel, reply } => {
                let _ = reply.send(self.add(*tunnel));
            }
            SupervisorRequest::Remove { name, reply } => {
                let _ = reply.send(self.remove(&name));
            }
            SupervisorRequest::Command { names, verb, reply } => {
                let _ = reply.send(self.command(&names, verb).await);
            }
            SupervisorRequest::Answer { id, answers, reply } => {
                self.answer(id, answers, reply).await
            }
            SupervisorRequest::Desired(desired) => {
                self.desired.send_replace(desired);
            }
            SupervisorRequest::All(verb) => {
                for owned in self.tunnels.values() {
                    let _ = owned.commands.send(verb.command()).await;
                }
            }
            SupervisorRequest::Alive(reply) => {
                let _ = reply.send(());
            }
            SupervisorRequest::Stop(_) => {}
        }
    }

    async fn apply(&mut self, tunnels: Vec<Tunnel>) -> Applied {
        let mut applied = Applied::default();
        let wanted: BTreeSet<&str> = tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect();
        applied.removed = self
            .tunnels
            .iter()
            .filter(|(name, owned)| !owned.ad_hoc && !wanted.contains(name.as_str()))
            .map(|(name, _)| name.clone())
            .collect();
        let before = self
            .tunnels
            .iter()
            .filter(|(name, owned)| !owned.ad_hoc || wanted.contains(name.as_str()));
        let givers = handover::givers(before.map(|(_, owned)| &*owned.spec), &tunnels);
        let events = self.shared.board.subscribe().1;
        for name in &applied.removed {
            // What was said of it stays said, for a file that is away for a moment.
            self.tunnels.remove(name);
        }
        if !givers.is_empty() {
            // One that is slow to let go does not hold up the others for long.
            let _ = timeout(HANDOVER, self.free(&givers, &tunnels, events)).await;
        }
        for tunnel in tunnels {
            let name = tunnel.name.clone();
            match self.tunnels.get_mut(&name) {
                None => {
                    let wanted = self.wanted(&tunnel);
                    self.start(Arc::new(tunnel), false, wanted);
                    applied.added.push(name);
                }
                Some(owned) if *owned.spec != tunnel => {
                    owned.spec = Arc::new(tunnel.clone());
                    owned.ad_hoc = false;
                    let _ = owned
                        .commands
                        .send(Command::Replace(Box::new(tunnel)))
                        .await;
                    applied.changed.push(name);
                }
                // A tunnel made on the command line and then saved.
                Some(owned) => owned.ad_hoc = false,
            }
        }
        applied
    }

    /// Waits until the givers listen no more where others will.
    async fn free(
        &self,
        givers: &[String],
        after: &[Tunnel],
        mut events: broadcast::Receiver<Event>,
    ) {
        for name in givers {
            let stays = after.iter().find(|tunnel| tunnel.name == *name);
            match stays.and_then(|tunnel| Some((tunnel, self.tunnels.get(name)?))) {
                Some((tunnel, owned)) => {
                    let (done, given_up) = oneshot::channel();
                    let wanted = tunnel.forwards.clone();
                    let give_up = Command::GiveUp { wanted, done };
                    let _ = owned.commands.send(give_up).await;
                    let _ = given_up.await;
                }
                // Removed: it is gone once its addresses are free.
                None => {
                    while self.shared.board.status(name).is_some() {
                        if let Err(RecvError::Closed) = events.recv().await {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn wanted(&self, tunnel: &Tunnel) -> Desired {
        let unsaid = if tunnel.life.autostart {
            Desired::Up
        } else {
            Desired::Down
        };
        self.desired
            .borrow()
            .get(&tunnel.name)
            .copied()
            .unwrap_or(unsaid)
    }

    /// Notes what a command says.
    fn want(&self, name: &str, desired: Desired) {
        self.desired
            .send_if_modified(|all| all.insert(name.to_owned(), desired) != Some(desired));
    }

    fn add(&mut self, tunnel: Tunnel) -> Result<(), RpcError> {
        if self.tunnels.contains_key(&tunnel.name) {
            let message = format!("a tunnel named {} exists", tunnel.name);
            return Err(
                RpcError::new(ErrorKind::TunnelExists, message).hint(format!(
                    "choose another with --name, or run: tunnelctl up {}",
                    tunnel.name
                )),
            );
        }
        let wanted = self
            .desired
            .borrow()
            .get(&tunnel.name)
            .copied()
            .unwrap_or(Desired::Up);
        self.want(&tunnel.name, wanted);
        self.start(Arc::new(tunnel), true, wanted);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), RpcError> {
        match self.tunnels.get(name) {
            Some(owned) if owned.ad_hoc => {
                self.forget(name);
                Ok(())
            }
            Some(_) => Err(RpcError::new(
                ErrorKind::InvalidParams,
                format!("the tunnel {name} stands in the configuration"),
            )
            .hint("remove it there; to stop it, run: tunnelctl down")),
            None => Err(not_found(&[name])),
        }
    }

    fn start(&mut self, spec: Arc<Tunnel>, ad_hoc: bool, wanted: Desired) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let name = spec.name.clone();
        let task = Task::new(Arc::clone(&spec), wanted, self.shared.clone(), inbox);
        let ended = name.clone();
        let abort = self.tasks.spawn(async move {
            task.run().await;
            ended
        });
        self.tunnels.insert(
            name,
            TunnelEntry {
                spec,
                commands,
                abort,
                ad_hoc,
            },
        );
    }

    /// Lets a tunnel end by itself: its task goes on until it is down.
    fn forget(&mut self, name: &str) {
        self.desired
            .send_if_modified(|all| all.remove(name).is_some());
        self.tunnels.remove(name);
    }

    async fn command(&mut self, names: &[String], verb: Verb) -> Result<(), RpcError> {
        let missing: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| !self.tunnels.contains_key(*name))
            .collect();
        if !missing.is_empty() {
            return Err(not_found(&missing));
        }
        for name in names {
            match verb {
                Verb::Up | Verb::Restart => self.want(name, Desired::Up),
                Verb::Down => self.want(name, Desired::Down),
                Verb::NetworkChanged | Verb::Woke => {}
            }
            if let Some(owned) = self.tunnels.get(name) {
                let _ = owned.commands.send(verb.command()).await;
            }
        }
        Ok(())
    }

    async fn answer(
        &mut self,
        id: u64,
        answers: Option<Vec<SecretString>>,
        reply: oneshot::Sender<Result<(), RpcError>>,
    ) {
        let prompt = self
            .shared
            .board
            .prompts()
            .into_iter()
            .find(|prompt| prompt.id == id);
        match prompt.and_then(|prompt| self.tunnels.get(&prompt.tunnel)) {
            Some(owned) => {
                let _ = owned
                    .commands
                    .send(Command::Answer { id, answers, reply })
                    .await;
            }
            None => {
                let _ = reply.send(Err(RpcError::new(
                    ErrorKind::PromptNotFound,
                    format!("no prompt {id} waits"),
                )
                .hint("run: tunnelctl answer")));
            }
        }
    }

    /// A tunnel's task has ended: as asked, or by a defect of ours, and then it is started anew.
    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        let Err(defect) = ended else { return };
        let Some(name) = self
            .tunnels
            .iter()
            .find(|(_, owned)| owned.abort.id() == defect.id())
            .map(|(name, _)| name.clone())
        else {
            return;
        };
        error!(
            tunnel = name,
            "a defect of tunneld ended the tunnel's task, which starts anew: {defect}"
        );
        if let Some(owned) = self.tunnels.remove(&name) {
            let wanted = self
                .shared
                .board
                .status(&name)
                .map_or(Desired::Up, |status| status.desired);
            self.start(owned.spec, owned.ad_hoc, wanted);
        }
    }

    async fn stop(mut self) {
        self.shared.board.bye();
        for owned in self.tunnels.values() {
            // A full channel closes below: the task stops all the same.
            let _ = owned.commands.try_send(Command::Stop);
        }
        self.tunnels.clear();
        let _ = timeout(STOP_GRACE, async {
            while self.tasks.join_next().await.is_some() {}
        })
        .await;
        self.tasks.shutdown().await;
    }
}
