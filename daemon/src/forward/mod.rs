//! The forwards of one tunnel: their listeners, connections and bytes. Listeners belong to the tunnel, not to a session: a
//! reconnect keeps every local port bound, and connections that arrive meanwhile are held.
//!
//! The path of a connection: `listener` and `local` (or `dynamic`, or `dns`) accept it, `hold` waits for a session and opens the
//! channel, `relay` copies. For remote forwards `remote` has the server listen and `incoming` serves what it opens. The
//! SSH protocol is not here: `ssh_session` has the traits through which it is used.

mod admission;
mod bind;
mod buffer;
mod connect;
mod context;
mod counters;
mod dns;
mod dynamic;
mod forward_state;
mod hold;
mod http;
mod incoming;
mod listener;
mod local;
mod local_socket;
mod port_owner;
mod proxy_login;
mod proxy_password;
mod relay;
mod remote;
mod retry;
mod server_listeners;
pub mod ssh_session;
#[cfg(unix)]
mod unix_socket;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunneld_proto::status::ForwardStatus;

pub(crate) use self::bind::PortKind;
use self::context::ForwardContext;
pub use self::context::{ForwardOptions, PacSource, TunnelSummary};
use self::forward_state::ForwardCell;
pub(crate) use self::listener::ForwardListener;
pub(crate) use self::local_socket::LocalSocket;
use self::remote::AttachedSession;
pub use self::server_listeners::ServerListeners;
use self::ssh_session::SshSession;
use crate::failure::Failure;
use crate::session::Session;
use tunneld_config::model::{Forward, Forwarding};

/// Reads the status of a tunnel's forwards from any task, without access to [`Forwards`]. Counters are current at each
/// call; the set of forwards is that of the moment when [`Forwards::monitor`] was called.
#[derive(Clone)]
pub struct ForwardMonitor(Vec<Arc<ForwardCell>>);

impl ForwardMonitor {
    /// Returns the status of each forward, in the order of the configuration.
    pub fn statuses(&self) -> Vec<ForwardStatus> {
        self.0.iter().map(|cell| cell.status()).collect()
    }
}

/// The forwards of one tunnel, with their listeners and connections. Outlives the tunnel's sessions: a session is
/// attached while it is live and detached when it is lost.
pub struct Forwards<S: SshSession = Session> {
    context: Arc<ForwardContext<S>>,
    entries: Vec<ForwardEntry>,
    attached: Option<AttachedSession<S>>,
}

struct ForwardEntry {
    cell: Arc<ForwardCell>,
    /// Ends the listener and resets the connections that are held. Connections that are relayed continue.
    cancel: CancellationToken,
    listener: ListenerTask,
    /// Completes (with an error) when the first attempt to bind the local address has succeeded or failed. `None` if
    /// that is known.
    first_bind: Option<oneshot::Receiver<()>>,
}

enum ListenerTask {
    /// The forward is not listening and is not trying to.
    NotStarted,
    /// The task that binds a local address and accepts connections.
    Local(JoinHandle<()>),
    /// The attached session has been asked for this remote forward, whether or not the server has granted it.
    RemoteRequested,
}

impl ForwardEntry {
    fn new(forward: Forward, changed: &Arc<Notify>) -> Self {
        Self {
            cell: Arc::new(ForwardCell::new(forward, Arc::clone(changed))),
            cancel: CancellationToken::new(),
            listener: ListenerTask::NotStarted,
            first_bind: None,
        }
    }

    /// Stops the listener and resets held connections. A local address is free when this returns.
    async fn stop(&mut self) {
        self.cancel.cancel();
        self.cancel = CancellationToken::new();
        if let ListenerTask::Local(task) =
            std::mem::replace(&mut self.listener, ListenerTask::NotStarted)
        {
            // An error means that the task panicked: the panic hook has reported it, and unwinding freed the address.
            let _ = task.await;
        }
    }
}

impl<S: SshSession> Forwards<S> {
    /// Returns an empty set of forwards. `changed` is notified when a forward's state, address or error changes, when a
    /// connection begins to be held, and when a forward's last open or last held connection ends. `listeners` are those of
    /// all tunnels.
    pub fn new(tunnel: &str, changed: Arc<Notify>, listeners: ServerListeners) -> Self {
        let options = ForwardOptions {
            hold: Duration::ZERO,
            forwarding: Forwarding {
                exit_on_failure: false,
                unlink_socket: false,
                socket_mask: 0o177,
                max_connections: tunneld_config::model::DEFAULT_MAX_CONNECTIONS,
                permit_remote_open: Vec::new(),
                proxy_login: None,
            },
        };
        Self {
            context: Arc::new(ForwardContext::new(tunnel, options, changed, listeners)),
            entries: Vec::new(),
            attached: None,
        }
    }

    /// Starts the forwards in `desired` that are not running and removes all others. An unchanged forward keeps its
    /// listener and connections. Of a removed one, relayed connections continue to their own end and held ones are reset.
    /// Remote forwards are requested and cancelled in the background, if a session is attached.
    ///
    /// An address that can be bound is bound when this returns. One that cannot shows in the status and is retried in the
    /// background, where also the search for its holder and the look-up of a name go on.
    pub async fn reconcile(&mut self, desired: &[Forward], options: ForwardOptions) {
        self.context.options.send_replace(options);
        self.set_desired(desired).await;
        for entry in &mut self.entries {
            if !matches!(entry.listener, ListenerTask::NotStarted) {
                continue;
            }
            if !entry.cell.is_remote() {
                let first = local::first_bind(&self.context, &entry.cell).await;
                let (bound, first_bind) = oneshot::channel();
                let (context, cell) = (Arc::clone(&self.context), Arc::clone(&entry.cell));
                let serve = local::serve(context, cell, first, bound, entry.cancel.clone());
                entry.listener = ListenerTask::Local(self.context.tasks.spawn(serve));
                entry.first_bind = Some(first_bind);
            } else if let Some(attached) = &self.attached {
                // Only `attach` waits for the first answer.
                drop(attached.request_with_retries(&self.context, &entry.cell, &entry.cancel));
                entry.listener = ListenerTask::RemoteRequested;
            }
        }
    }

    /// Removes the forwards that are not in `desired` and adds the new ones as pending, without binding any address.
    /// [`Forwards::reconcile`] starts them.
    pub async fn set_desired(&mut self, desired: &[Forward]) {
        // An entry is taken out of `before` by the first equal forward; what is left in it is removed.
        let mut before: Vec<Option<ForwardEntry>> = self.entries.drain(..).map(Some).collect();
        for forward in desired {
            let kept = before
                .iter_mut()
                .find_map(|slot| slot.take_if(|entry| entry.cell.forward == *forward));
            let entry =
                kept.unwrap_or_else(|| ForwardEntry::new(forward.clone(), &self.context.changed));
            self.entries.push(entry);
        }
        for mut removed in before.into_iter().flatten() {
            if removed.cell.is_remote() {
                self.release_remote(&removed);
            }
            removed.stop().await;
        }
        let remotes = self.entries.iter().map(|entry| &entry.cell);
        let remotes = remotes.filter(|cell| cell.is_remote()).cloned().collect();
        self.context.remotes.send_replace(remotes);
        self.context.changed.notify_one();
    }

    /// Stops the local listeners of the forwards that are not in `desired`, so that another tunnel can bind their
    /// addresses, which are free when this returns. The forwards stay in the set, as pending.
    pub async fn release_local(&mut self, desired: &[Forward]) {
        for entry in &mut self.entries {
            if !entry.cell.is_remote() && !desired.contains(&entry.cell.forward) {
                entry.stop().await;
                entry.cell.set_pending();
            }
        }
    }

    /// Cancels a removed remote forward at the server. If a new forward listens on the same address and differs only in
    /// its target, it takes over the server's listener instead: between a cancellation and a new request the server
    /// would refuse connections.
    fn release_remote(&mut self, removed: &ForwardEntry) {
        let (Some(attached), ListenerTask::RemoteRequested) = (&self.attached, &removed.listener)
        else {
            return;
        };
        let successor = self.entries.iter_mut().find(|entry| {
            entry.cell.is_remote()
                && matches!(entry.listener, ListenerTask::NotStarted)
                && entry.cell.listen() == removed.cell.listen()
        });
        match (successor, removed.cell.bound_addr()) {
            (Some(successor), Some(addr)) => {
                successor.cell.set_listening(addr);
                successor.listener = ListenerTask::RemoteRequested;
            }
            (_, addr) => {
                let port = addr.map_or(0, |addr| addr.port);
                attached.cancel_forward(&self.context, removed.cell.listen(), port);
            }
        }
    }

    /// Attaches a live session: held connections continue at once, and all remote forwards are requested in parallel.
    /// `incoming` yields the channels that the server opens for them.
    ///
    /// Returns, when the server has answered every request or the request has timed out, and every local address was tried,
    /// the failures of all forwards that are not listening. Those are retried in the background.
    ///
    /// # Cancel safety
    /// If the future is dropped the session stays attached and the requests continue; only the failures are lost.
    pub async fn attach(
        &mut self,
        session: S,
        incoming: mpsc::Receiver<S::Incoming>,
    ) -> Vec<Failure> {
        self.detach();
        let attached = AttachedSession::new(session.clone());
        let (context, cancel) = (Arc::clone(&self.context), attached.cancel.clone());
        self.context.spawn(incoming::serve_incoming(
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
        answers.extend(
            self.entries
                .iter_mut()
                .filter_map(|entry| entry.first_bind.take()),
        );
        futures_util::future::join_all(answers).await;
        let failures = self.entries.iter().map(|entry| entry.cell.failure());
        failures.flatten().collect()
    }

    /// Detaches the session, if one is attached. New connections are held until the next [`Forwards::attach`]; remote
    /// forwards become pending.
    pub fn detach(&mut self) {
        let Some(attached) = self.attached.take() else {
            return;
        };
        self.context.session.send_replace(None);
        self.context.listeners.session_ended(&self.context.tunnel);
        attached.cancel.cancel();
        for entry in &mut self.entries {
            if entry.cell.is_remote() {
                entry.listener = ListenerTask::NotStarted;
                entry.cell.set_pending();
            }
        }
    }

    /// Says whether a session may come back without the user. If not, held connections and new ones are reset at once:
    /// waiting would not help them.
    pub fn expect_session(&self, expected: bool) {
        let current = &self.context.session_expected;
        current.send_if_modified(|before| std::mem::replace(before, expected) != expected);
    }

    /// Sets what the pages of the HTTP proxy say about the tunnel.
    pub fn set_summary(&self, summary: TunnelSummary) {
        self.context.summary.send_if_modified(|before| {
            let is_new = *before != summary;
            *before = summary;
            is_new
        });
    }

    /// Discards the password of `proxy_user`, so that its command runs again.
    pub fn forget_proxy_password(&self) {
        self.context.proxy_password.forget();
    }

    /// Sets what makes the file that dynamic forwards serve as `/proxy.pac`.
    pub fn set_pac(&self, source: PacSource) {
        self.context.pac.send_replace(Some(source));
    }

    /// Returns the status of each forward, in the order of the configuration.
    pub fn statuses(&self) -> Vec<ForwardStatus> {
        self.monitor().statuses()
    }

    /// Returns a reader of the forwards' status. It does not see forwards that a later [`Forwards::set_desired`] or
    /// [`Forwards::reconcile`] adds or removes.
    pub fn monitor(&self) -> ForwardMonitor {
        ForwardMonitor(
            self.entries
                .iter()
                .map(|entry| Arc::clone(&entry.cell))
                .collect(),
        )
    }

    /// Stops all listeners and resets held connections. Relayed connections may end on their own within `grace`; the
    /// rest is then reset. The forwards stay in the set, as pending, and [`Forwards::reconcile`] starts them again.
    pub async fn close(&mut self, grace: Duration) {
        for entry in &mut self.entries {
            entry.stop().await;
        }
        // `tasks` and `kill` cannot be reopened once closed and cancelled, so a later start gets a new context.
        let old = &self.context;
        let options = old.options.borrow().clone();
        let new = ForwardContext::new(
            &old.tunnel,
            options,
            Arc::clone(&old.changed),
            old.listeners.clone(),
        );
        new.remotes.send_replace(old.remotes.borrow().clone());
        new.summary.send_replace(old.summary.borrow().clone());
        new.pac.send_replace(old.pac.borrow().clone());
        new.session_expected
            .send_replace(*old.session_expected.borrow());
        // `serve_incoming` is the only task that neither ends on its own nor was stopped above.
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

impl<S: SshSession> Drop for Forwards<S> {
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

#[cfg(test)]
mod tests;
