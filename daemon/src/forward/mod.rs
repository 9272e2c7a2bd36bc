//! All that carries bytes for one tunnel. Listeners belong to the tunnel, not to its session, so a reconnect never gives a port
//! up: what comes meanwhile is held. `listener` and `local` take connections here, `remote` those of the far side,
//! `hold` waits for a session, `pump` carries.

mod admission;
mod buffer;
mod carry;
mod connect;
mod context;
mod counters;
mod dynamic;
mod forward_state;
mod hold;
mod listener;
mod local;
mod local_socket;
mod port_owner;
mod relay;
mod remote;
mod reserved_fd;
pub mod ssh_session;
#[cfg(test)]
mod tests;
#[cfg(unix)]
mod unix_socket;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunneld_proto::status::ForwardStatus;

use self::context::ForwardContext;
use self::forward_state::ForwardCell;
use self::remote::Attached;
use self::ssh_session::SshSession;
use crate::failure::Failure;
use crate::session::Session;
use tunneld_config::model::{Forward, Forwarding};

/// How the forwards of a tunnel behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long a new connection waits for the session; zero closes it at once.
    pub hold: Duration,
    /// The rest, as it is configured.
    pub forwarding: Forwarding,
}

/// Tells how forwards stand, with their counters as they are when it is asked.
#[derive(Clone)]
pub struct Monitor(Vec<Arc<ForwardCell>>);

impl Monitor {
    /// Each forward as it stands, in the configuration's order.
    pub fn statuses(&self) -> Vec<ForwardStatus> {
        self.0.iter().map(|facts| facts.status()).collect()
    }
}

/// The forwards of one tunnel, their listeners and connections. Lives across sessions.
pub struct Forwards<L: SshSession = Session> {
    ground: Arc<ForwardContext<L>>,
    entries: Vec<Entry>,
    attached: Option<Attached<L>>,
}

struct Entry {
    facts: Arc<ForwardCell>,
    /// Ends its listener and those that wait at it; what is carried already goes on.
    cancel: CancellationToken,
    /// What keeps it up.
    upkeep: ListenerTask,
}

enum ListenerTask {
    /// Nothing yet, or nothing any more.
    None,
    /// The task of a listener on this side.
    Task(JoinHandle<()>),
    /// The session of the moment was asked for it.
    PendingPrompt,
}

impl Entry {
    fn new(forward: Forward, changed: &Arc<Notify>) -> Self {
        Self {
            facts: Arc::new(ForwardCell::new(forward, Arc::clone(changed))),
            cancel: CancellationToken::new(),
            upkeep: ListenerTask::None,
        }
    }

    /// Stops it; once this is done its address on this side is free.
    async fn stop(&mut self) {
        self.cancel.cancel();
        self.cancel = CancellationToken::new();
        if let ListenerTask::Task(task) = std::mem::replace(&mut self.upkeep, ListenerTask::None) {
            // A panic is told by the runtime, and frees the address as well.
            let _ = task.await;
        }
    }
}

impl<L: SshSession> Forwards<L> {
    /// None yet. `changed` is notified whenever a forward's state, address or error differs, when a connection begins
    /// to wait for the session, and when the last one of a forward ends.
    pub fn new(tunnel: &str, changed: Arc<Notify>) -> Self {
        let options = Options {
            hold: Duration::ZERO,
            forwarding: Forwarding {
                exit_on_failure: false,
                unlink_socket: false,
                socket_mask: 0o177,
                permit_remote_open: Vec::new(),
            },
        };
        Self {
            ground: Arc::new(ForwardContext::new(tunnel, options, changed)),
            entries: Vec::new(),
            attached: None,
        }
    }

    /// Makes the wanted forwards be, and no others: binds what is new, drops what is gone. An unchanged one keeps its listener
    /// and its connections; connections of a dropped one are carried to their end, those that still wait are reset.
    /// Over a live session remote forwards are asked for and given up in the background.
    ///
    /// An address that cannot be had is written down in the status and tried again in the background.
    pub async fn apply(&mut self, wanted: &[Forward], options: Options) {
        self.ground.options.send_replace(options);
        self.declare(wanted).await;
        for entry in &mut self.entries {
            if !matches!(entry.upkeep, ListenerTask::None) {
                continue;
            }
            if !entry.facts.is_remote() {
                let first = local::bind(&self.ground, &entry.facts, true).await;
                let (ground, facts) = (Arc::clone(&self.ground), Arc::clone(&entry.facts));
                let serve = local::serve(ground, facts, first, entry.cancel.clone());
                entry.upkeep = ListenerTask::Task(self.ground.tasks.spawn(serve));
            } else if let Some(attached) = &self.attached {
                drop(attached.ask(&self.ground, &entry.facts, &entry.cancel));
                entry.upkeep = ListenerTask::PendingPrompt;
            }
        }
    }

    /// Drops what is not among the wanted, and tells the new ones as pending, without taking any address yet.
    pub async fn declare(&mut self, wanted: &[Forward]) {
        let mut before: Vec<Option<Entry>> = self.entries.drain(..).map(Some).collect();
        for forward in wanted {
            let kept = before
                .iter_mut()
                .find_map(|slot| slot.take_if(|entry| entry.facts.forward == *forward));
            let entry = kept.unwrap_or_else(|| Entry::new(forward.clone(), &self.ground.changed));
            self.entries.push(entry);
        }
        for mut gone in before.into_iter().flatten() {
            if gone.facts.is_remote() {
                self.let_go(&gone);
            }
            gone.stop().await;
        }
        let remotes = self.entries.iter().map(|entry| &entry.facts);
        let remotes = remotes.filter(|facts| facts.is_remote()).cloned().collect();
        self.ground.remotes.send_replace(remotes);
        self.ground.changed.notify_one();
    }

    /// Listens no more on this side where none of the wanted does, so that another tunnel may; what is given up stays
    /// known, as pending. Once this is done the addresses are free.
    pub async fn give_up(&mut self, wanted: &[Forward]) {
        for entry in &mut self.entries {
            if !entry.facts.is_remote() && !wanted.contains(&entry.facts.forward) {
                entry.stop().await;
                entry.facts.waits();
            }
        }
    }

    /// Gives a remote forward up, or to a new one that listens at the same place and only leads elsewhere.
    fn let_go(&mut self, gone: &Entry) {
        let (Some(attached), ListenerTask::PendingPrompt) = (&self.attached, &gone.upkeep) else {
            return;
        };
        let heir = self.entries.iter_mut().find(|entry| {
            entry.facts.is_remote()
                && matches!(entry.upkeep, ListenerTask::None)
                && entry.facts.listen() == gone.facts.listen()
        });
        match (heir, gone.facts.place()) {
            (Some(heir), Some(place)) => {
                heir.facts.listens(place);
                heir.upkeep = ListenerTask::PendingPrompt;
            }
            _ => attached.give_up(&self.ground, gone.facts.listen()),
        }
    }

    /// A session is live: connections that wait go on at once, and remote forwards are asked for, all together.
    /// Returns, when each of them was answered, why those forwards do not stand that do not, on either side;
    /// they are tried again in the background while the session lives.
    pub async fn attach(
        &mut self,
        session: L,
        incoming: mpsc::Receiver<L::Incoming>,
    ) -> Vec<Failure> {
        self.detach();
        let attached = Attached::new(session.clone());
        let (ground, cancel) = (Arc::clone(&self.ground), attached.cancel.clone());
        self.ground
            .spawn(remote::take(ground, session.clone(), cancel, incoming));
        self.ground.link.send_replace(Some(session));
        let mut answers = Vec::new();
        for entry in &mut self.entries {
            if entry.facts.is_remote() {
                answers.push(attached.ask(&self.ground, &entry.facts, &entry.cancel));
                entry.upkeep = ListenerTask::PendingPrompt;
            }
        }
        self.attached = Some(attached);
        futures_util::future::join_all(answers).await;
        let failures = self.entries.iter().map(|entry| entry.facts.failure());
        failures.flatten().collect()
    }

    /// The session is gone: new connections wait for the next one.
    pub fn detach(&mut self) {
        let Some(attached) = self.attached.take() else {
            return;
        };
        self.ground.link.send_replace(None);
        attached.cancel.cancel();
        for entry in &mut self.entries {
            if entry.facts.is_remote() {
                entry.upkeep = ListenerTask::None;
                entry.facts.waits();
            }
        }
    }

    /// Each forward as it stands, in the configuration's order.
    pub fn statuses(&self) -> Vec<ForwardStatus> {
        self.monitor().statuses()
    }

    /// What tells of these forwards from anywhere, until the next [`Forwards::apply`].
    pub fn monitor(&self) -> Monitor {
        Monitor(
            self.entries
                .iter()
                .map(|entry| Arc::clone(&entry.facts))
                .collect(),
        )
    }

    /// Stops listening, resets what waits, lets what is carried come to its end within `grace`, and resets the rest.
    /// The forwards stay known, as pending; [`Forwards::apply`] brings them back.
    pub async fn close(&mut self, grace: Duration) {
        for entry in &mut self.entries {
            entry.stop().await;
        }
        let old = &self.ground;
        let options = old.options.borrow().clone();
        let new = ForwardContext::new(&old.tunnel, options, Arc::clone(&old.changed));
        new.remotes.send_replace(old.remotes.borrow().clone());
        // The one task that does not end by itself takes what the far side opens.
        if let Some(attached) = &self.attached {
            attached.cancel.cancel();
        }
        old.tasks.close();
        if timeout(grace, old.tasks.wait()).await.is_err() {
            old.kill.cancel();
            old.tasks.wait().await;
        }
        self.detach();
        self.ground = Arc::new(new);
        for entry in &self.entries {
            entry.facts.waits();
        }
    }
}

impl<L: SshSession> Drop for Forwards<L> {
    fn drop(&mut self) {
        for entry in &self.entries {
            entry.cancel.cancel();
        }
        if let Some(attached) = &self.attached {
            attached.cancel.cancel();
        }
        self.ground.kill.cancel();
    }
}
