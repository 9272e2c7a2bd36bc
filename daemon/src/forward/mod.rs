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
use self::remote::AttachedSession;
use self::ssh_session::SshSession;
use crate::failure::Failure;
use crate::session::Session;
use tunneld_config::model::{Forward, Forwarding};

/// How the forwards of a tunnel behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardOptions {
    /// How long a new connection waits for the session; zero closes it at once.
    pub hold: Duration,
    /// The rest, as it is configured.
    pub forwarding: Forwarding,
}

/// Tells how forwards stand, with their counters as they are when it is asked.
#[derive(Clone)]
pub struct ForwardMonitor(Vec<Arc<ForwardCell>>);

impl ForwardMonitor {
    /// Each forward as it stands, in the configuration's order.
    pub fn statuses(&self) -> Vec<ForwardStatus> {
        self.0.iter().map(|cell| cell.status()).collect()
    }
}

/// The forwards of one tunnel, their listeners and connections. Lives across sessions.
pub struct Forwards<L: SshSession = Session> {
    context: Arc<ForwardContext<L>>,
    entries: Vec<ForwardEntry>,
    attached: Option<AttachedSession<L>>,
}

struct ForwardEntry {
    cell: Arc<ForwardCell>,
    /// Ends its listener and those that wait at it; what is carried already goes on.
    cancel: CancellationToken,
    /// What keeps it up.
    listener: ListenerTask,
}

enum ListenerTask {
    /// Nothing yet, or nothing any more.
    NotStarted,
    /// The task of a listener on this side.
    Local(JoinHandle<()>),
    /// The session of the moment was asked for it.
    RemoteRequested,
}

impl ForwardEntry {
    fn new(forward: Forward, changed: &Arc<Notify>) -> Self {
        Self {
            cell: Arc::new(ForwardCell::new(forward, Arc::clone(changed))),
            cancel: CancellationToken::new(),
            listener: ListenerTask::NotStarted,
        }
    }

    /// Stops it; once this is done its address on this side is free.
    async fn stop(&mut self) {
        self.cancel.cancel();
        self.cancel = CancellationToken::new();
        if let ListenerTask::Local(task) =
            std::mem::replace(&mut self.listener, ListenerTask::NotStarted)
        {
            // A panic is told by the runtime, and frees the address as well.
            let _ = task.await;
        }
    }
}

impl<L: SshSession> Forwards<L> {
    /// None yet. `changed` is notified whenever a forward's state, address or error differs, when a connection begins
    /// to wait for the session, and when the last one of a forward ends.
    pub fn new(tunnel: &str, changed: Arc<Notify>) -> Self {
        let options = ForwardOptions {
            hold: Duration::ZERO,
            forwarding: Forwarding {
                exit_on_failure: false,
                unlink_socket: false,
                socket_mask: 0o177,
                permit_remote_open: Vec::new(),
            },
        };
        Self {
            context: Arc::new(ForwardContext::new(tunnel, options, changed)),
            entries: Vec::new(),
            attached: None,
        }
    }

    /// Makes the desired forwards be, and no others: binds what is new, drops what is gone. An unchanged one keeps its listener
    /// and its connections; connections of a dropped one are carried to their end, those that still wait are reset.
    /// Over a live session remote forwards are asked for and given up in the background.
    ///
    /// An address that cannot be had is written down in the status and tried again in the background.
    pub async fn reconcile(&mut self, desired: &[Forward], options: ForwardOptions) {
        self.context.options.send_replace(options);
        self.set_desired(desired).await;
        for entry in &mut self.entries {
            if !matches!(entry.listener, ListenerTask::NotStarted) {
                continue;
            }
            if !entry.cell.is_remote() {
                let first = local::bind(&self.context, &entry.cell, true).await;
                let (context, cell) = (Arc::clone(&self.context), Arc::clone(&entry.cell));
                let serve = local::serve(context, cell, first, entry.cancel.clone());
                entry.listener = ListenerTask::Local(self.context.tasks.spawn(serve));
            } else if let Some(attached) = &self.attached {
                drop(attached.request_with_retries(&self.context, &entry.cell, &entry.cancel));
                entry.listener = ListenerTask::RemoteRequested;
            }
        }
    }

    /// Drops what is not among the desired, and tells the new ones as pending, without taking any address yet.
    pub async fn set_desired(&mut self, desired: &[Forward]) {
        let mut before: Vec<Option<ForwardEntry>> = self.entries.drain(..).map(Some).collect();
        for forward in desired {
            let kept = before
                .iter_mut()
                .find_map(|slot| slot.take_if(|entry| entry.cell.forward == *forward));
            let entry =
                kept.unwrap_or_else(|| ForwardEntry::new(forward.clone(), &self.context.changed));
            self.entries.push(entry);
        }
        for mut gone in before.into_iter().flatten() {
            if gone.cell.is_remote() {
                self.release_remote(&gone);
            }
            gone.stop().await;
        }
        let remotes = self.entries.iter().map(|entry| &entry.cell);
        let remotes = remotes.filter(|cell| cell.is_remote()).cloned().collect();
        self.context.remotes.send_replace(remotes);
        self.context.changed.notify_one();
    }

    /// Listens no more on this side where none of the desired does, so that another tunnel may; what is given up stays
    /// known, as pending. Once this is done the addresses are free.
    pub async fn release_local(&mut self, desired: &[Forward]) {
        for entry in &mut self.entries {
            if !entry.cell.is_remote() && !desired.contains(&entry.cell.forward) {
                entry.stop().await;
                entry.cell.set_pending();
            }
        }
    }

    /// Gives a remote forward up, or to a new one that listens at the same place and only leads elsewhere.
    fn release_remote(&mut self, gone: &ForwardEntry) {
        let (Some(attached), ListenerTask::RemoteRequested) = (&self.attached, &gone.listener)
        else {
            return;
        };
        let successor = self.entries.iter_mut().find(|entry| {
            entry.cell.is_remote()
                && matches!(entry.listener, ListenerTask::NotStarted)
                && entry.cell.listen() == gone.cell.listen()
        });
        match (successor, gone.cell.bound_addr()) {
            (Some(successor), Some(place)) => {
                successor.cell.set_listening(place);
                successor.listener = ListenerTask::RemoteRequested;
            }
            _ => attached.cancel_forward(&self.context, gone.cell.listen()),
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
        let attached = AttachedSession::new(session.clone());
        let (context, cancel) = (Arc::clone(&self.context), attached.cancel.clone());
        self.context.spawn(remote::serve_incoming(
            context,
            session.clone(),
            cancel,
            incoming,
        ));
        self.context.session.send_replace(Some(session));
        let mut answers = Vec::new();
        for entry in &mut self.entries {
            if entry.cell.is_remote() {
                answers.push(attached.request_with_retries(
                    &self.context,
                    &entry.cell,
                    &entry.cancel,
                ));
                entry.listener = ListenerTask::RemoteRequested;
            }
        }
        self.attached = Some(attached);
        futures_util::future::join_all(answers).await;
        let failures = self.entries.iter().map(|entry| entry.cell.failure());
        failures.flatten().collect()
    }

    /// The session is gone: new connections wait for the next one.
    pub fn detach(&mut self) {
        let Some(attached) = self.attached.take() else {
            return;
        };
        self.context.session.send_replace(None);
        attached.cancel.cancel();
        for entry in &mut self.entries {
            if entry.cell.is_remote() {
                entry.listener = ListenerTask::NotStarted;
                entry.cell.set_pending();
            }
        }
    }

    /// Each forward as it stands, in the configuration's order.
    pub fn statuses(&self) -> Vec<ForwardStatus> {
        self.monitor().statuses()
    }

    /// What tells of these forwards from anywhere, until the next [`Forwards::reconcile`].
    pub fn monitor(&self) -> ForwardMonitor {
        ForwardMonitor(
            self.entries
                .iter()
                .map(|entry| Arc::clone(&entry.cell))
                .collect(),
        )
    }

    /// Stops listening, resets what waits, lets what is carried come to its end within `grace`, and resets the rest.
    /// The forwards stay known, as pending; [`Forwards::reconcile`] brings them back.
    pub async fn close(&mut self, grace: Duration) {
        for entry in &mut self.entries {
            entry.stop().await;
        }
        let old = &self.context;
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
        self.context = Arc::new(new);
        for entry in &self.entries {
            entry.cell.set_pending();
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
        self.context.kill.cancel();
    }
}
