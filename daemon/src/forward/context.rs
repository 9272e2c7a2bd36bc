//! What all forwards and connections of one tunnel share: the options, the current session, the limits, the tasks.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use tunneld_config::model::Forwarding;

use super::counters::CountGuard;
use super::forward_state::ForwardCell;
use super::proxy_password::ProxyPassword;
use super::server_listeners::ServerListeners;
use super::ssh_session::SshSession;

/// The shortest time between two throttled warnings of one tunnel.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The part of a tunnel's configuration that its forwards obey; a change needs no reconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardOptions {
    /// How long a new connection waits for a session; zero resets it immediately if there is none.
    pub hold: Duration,
    /// The options of Unix sockets and of reverse SOCKS.
    pub forwarding: Forwarding,
}

/// What the proxy's pages say about the tunnel. The forwards do not know the machine's state, so the tunnel's task sets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelSummary {
    /// The tunnel's name.
    pub name: String,
    /// The state as `status` shows it, such as `waiting`.
    pub state: String,
    /// Why the tunnel is not up. `None` while it is, or before the first failure.
    pub reason: Option<String>,
    /// What to do about it. `None` if nothing is to be done.
    pub hint: Option<String>,
    /// When the next attempt starts, as local time of day. `None` if none is planned.
    pub next_attempt: Option<String>,
}

impl TunnelSummary {
    /// Returns the facts for a page, each with its label.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let named = [
            ("reason", self.reason.as_ref()),
            ("next attempt", self.next_attempt.as_ref()),
            ("what to do", self.hint.as_ref()),
        ];
        let state = std::iter::once(("state", self.state.clone()));
        let named = named
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value.clone())));
        state.chain(named).collect()
    }
}

/// Returns the proxy auto-configuration file for the tunnels as they are now.
pub type PacSource = Arc<dyn Fn() -> String + Send + Sync>;

/// State shared by all forwards and connections of one tunnel.
pub(super) struct ForwardContext<S> {
    /// The tunnel's name, for the log.
    pub(super) tunnel: String,
    /// The current options; each connection reads them when it starts.
    pub(super) options: watch::Sender<ForwardOptions>,
    /// The current session; `None` while the tunnel is not connected.
    pub(super) session: watch::Sender<Option<S>>,
    /// Whether a session may come back without the user. While it is false, connections are reset and not held.
    pub(super) session_expected: watch::Sender<bool>,
    /// What the proxy's pages say about the tunnel.
    pub(super) summary: watch::Sender<TunnelSummary>,
    /// Makes the file that `/proxy.pac` serves. `None` if the daemon has not set one.
    pub(super) pac: watch::Sender<Option<PacSource>>,
    /// The password that clients of the dynamic forwards must send, if `proxy_user` is set.
    pub(super) proxy_password: ProxyPassword,
    /// The remote forwards, to find the one that a channel from the server belongs to. Changes too when one is granted.
    pub(super) remotes: watch::Sender<Vec<Arc<ForwardCell>>>,
    /// The tasks of all listeners and connections.
    pub(super) tasks: TaskTracker,
    /// Cancels all connection tasks; their connections are reset.
    pub(super) kill: CancellationToken,
    /// Notified when the status of a forward has changed.
    pub(super) changed: Arc<Notify>,
    /// What all tunnels of the daemon have servers listen on.
    pub(super) listeners: ServerListeners,
    // A std mutex: no await happens while it is locked.
    last_warning: Mutex<Option<Instant>>,
}

impl<S: SshSession> ForwardContext<S> {
    pub(super) fn new(
        tunnel: &str,
        options: ForwardOptions,
        changed: Arc<Notify>,
        listeners: ServerListeners,
    ) -> Self {
        Self {
            tunnel: tunnel.to_owned(),
            options: watch::Sender::new(options),
            session: watch::Sender::new(None),
            session_expected: watch::Sender::new(true),
            summary: watch::Sender::new(TunnelSummary {
                name: tunnel.to_owned(),
                ..TunnelSummary::default()
            }),
            pac: watch::Sender::new(None),
            proxy_password: ProxyPassword::default(),
            remotes: watch::Sender::new(Vec::new()),
            tasks: TaskTracker::new(),
            kill: CancellationToken::new(),
            changed,
            listeners,
            last_warning: Mutex::new(None),
        }
    }

    /// Counts one more connection of `cell` until the guard is dropped; `None`, with a warning in the log, if the forward
    /// has as many as `max_connections` allows. Never waits: a connection that cannot be served is ended immediately and
    /// does not queue.
    pub(super) fn try_count_connection(&self, cell: &ForwardCell) -> Option<CountGuard> {
        let maximum = self.options.borrow().forwarding.max_connections;
        let counted = cell.try_count_connection(maximum.into());
        if counted.is_none() {
            self.warn_throttled(&format!(
                "the forward {} has {maximum} connections, the maximum: new ones are refused; raise max_connections",
                cell.listen()
            ));
        }
        counted
    }

    /// Returns the current session; `None` if there is none or it has ended.
    pub(super) fn live_session(&self) -> Option<S> {
        self.session
            .borrow()
            .as_ref()
            .filter(|session| !session.is_closed())
            .cloned()
    }

    /// Returns whether a new connection can be served: there is a session, or the connection may wait for one.
    pub(super) fn may_serve(&self) -> bool {
        let may_hold = !self.options.borrow().hold.is_zero() && *self.session_expected.borrow();
        may_hold || self.live_session().is_some()
    }

    /// Spawns the task of one connection. The task is cancelled with the tunnel, and a panic in it ends only this
    /// connection.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.guard(task));
    }

    /// Wraps a connection's task so that it is cancelled by `kill` and a panic is caught and logged.
    pub(super) fn guard(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        // Boxed because each combinator around a future reserves space for the whole inner future again, and there is
        // one of these per connection.
        let task = Box::pin(AssertUnwindSafe(task).catch_unwind());
        let run = self.kill.clone().run_until_cancelled_owned(task);
        let tunnel = self.tunnel.clone();
        async move {
            if let Some(Err(_)) = run.await {
                warn!(
                    tunnel,
                    "bug: the task of a connection panicked; the connection is reset"
                );
            }
        }
    }

    /// Logs a warning that clients or the server can cause at any rate. At most one is logged per tunnel and
    /// [`WARN_INTERVAL`], whatever its text: a different warning within the interval is dropped too.
    pub(super) fn warn_throttled(&self, message: &str) {
        let mut last = self
            .last_warning
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if last.is_none_or(|last| now.duration_since(last) >= WARN_INTERVAL) {
            *last = Some(now);
            warn!(tunnel = self.tunnel, "{message}");
        }
    }
}
