//! What all connections of one tunnel stand on: the session of the moment, the limits, the tasks.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::ForwardOptions;
use super::admission::AdmissionQueue;
use super::forward_state::ForwardCell;
use super::ssh_session::SshSession;

/// The most connections of one tunnel.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// The most of them that wait for the session.
pub(super) const MAX_HELD: usize = 256;
/// The most of them that have not said yet where they want to go.
pub(super) const MAX_HANDSHAKES: usize = 256;
/// The most frequent line about one trouble.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The context of one tunnel.
pub(super) struct ForwardContext<L> {
    /// The tunnel's name.
    pub(super) tunnel: String,
    /// How forwards behave now.
    pub(super) options: watch::Sender<ForwardOptions>,
    /// The session of the moment.
    pub(super) session: watch::Sender<Option<L>>,
    /// The remote forwards, for the connections that the far side opens.
    pub(super) remotes: watch::Sender<Vec<Arc<ForwardCell>>>,
    /// Who waits for the session.
    pub(super) held: AdmissionQueue,
    /// Who has not said yet where to go.
    pub(super) handshaking: AdmissionQueue,
    /// Every task of the tunnel's bytes.
    pub(super) tasks: TaskTracker,
    /// Ends them all at once.
    pub(super) kill: CancellationToken,
    /// Told whenever what is shown differs.
    pub(super) changed: Arc<Notify>,
    connection_permits: Arc<Semaphore>,
    // A std mutex: nothing is awaited while it is held.
    last_warning: Mutex<Option<Instant>>,
}

impl<L: SshSession> ForwardContext<L> {
    pub(super) fn new(tunnel: &str, options: ForwardOptions, changed: Arc<Notify>) -> Self {
        Self {
            tunnel: tunnel.to_owned(),
            options: watch::Sender::new(options),
            session: watch::Sender::new(None),
            remotes: watch::Sender::new(Vec::new()),
            held: AdmissionQueue::new(MAX_HELD),
            handshaking: AdmissionQueue::new(MAX_HANDSHAKES),
            tasks: TaskTracker::new(),
            kill: CancellationToken::new(),
            changed,
            connection_permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            last_warning: Mutex::new(None),
        }
    }

    /// A place for one more connection; none when all are taken.
    pub(super) fn try_acquire_connection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connection_permits)
            .try_acquire_owned()
            .ok()
    }

    /// The session, if one stands.
    pub(super) fn live_session(&self) -> Option<L> {
        self.session
            .borrow()
            .as_ref()
            .filter(|session| !session.is_closed())
            .cloned()
    }

    /// Runs one connection's task: it ends with the tunnel, and its panic is its own.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.guard(task));
    }

    /// In a box, for each future around a future would hold room for it twice.
    pub(super) fn guard(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let task = Box::pin(AssertUnwindSafe(task).catch_unwind());
        let run = self.kill.clone().run_until_cancelled_owned(task);
        let tunnel = self.tunnel.clone();
        async move {
            if let Some(Err(_)) = run.await {
                warn!(
                    tunnel,
                    "a connection's task panicked; its connection is reset"
                );
            }
        }
    }

    /// Warns, at most once in a while.
    pub(super) fn warn_throttled(&self, what: &str) {
        let mut last = self
            .last_warning
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if last.is_none_or(|last| now.duration_since(last) >= WARN_INTERVAL) {
            *last = Some(now);
            warn!(tunnel = self.tunnel, "{what}");
        }
    }
}
