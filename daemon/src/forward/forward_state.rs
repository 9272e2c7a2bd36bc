//! The state of one forward as the status shows it: whether it listens, on which address, why not, and its counters.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;
use tunneld_proto::status::{ForwardKind, ForwardState, ForwardStatus, LastError, Refusal};

use super::admission::AdmissionQueue;
use super::counters::{CountGuard, Counters};
use crate::failure::Failure;
use tunneld_config::addr::{BindAddr, Endpoint, ListenAddr};
use tunneld_config::model::Forward;

/// Connections of one forward that may be held at a time. A further one evicts the oldest.
pub(super) const MAX_HELD: usize = 256;
/// Clients of one dynamic forward that may be in their handshake at a time. A further one evicts the oldest, so that
/// clients which connect and send nothing cannot shut out the others.
const MAX_HANDSHAKES: usize = 256;

/// One forward and its current state; shared by its listener, its connections and the status.
pub(crate) struct ForwardCell {
    /// The forward as it is configured.
    pub(super) forward: Forward,
    pub(super) counters: Arc<Counters>,
    /// Connections that wait for a session. Like every limit on connections it is the forward's own, so that the clients
    /// of one forward, who may be at the far side, cannot shut out those of another.
    pub(super) held: AdmissionQueue,
    /// Clients that have not sent their whole request yet.
    pub(super) handshaking: AdmissionQueue,
    // A std mutex: no await happens while it is locked.
    state: Mutex<ListenState>,
    refused: Mutex<Option<Refusal>>,
    changed: Arc<Notify>,
}

enum ListenState {
    /// Not tried yet: the tunnel is down, or a remote forward waits for a session.
    Pending,
    /// Listens; with a failure, and the time of its first occurrence, if one of several addresses could not be bound.
    Listening(BoundAddr, Option<(Failure, Timestamp)>),
    /// The last attempt failed; the time is that of the first attempt that failed in this way.
    Failed(Failure, Timestamp),
}

/// The address that a forward listens on, after resolution and with the port that was chosen for port 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundAddr {
    /// The address as the status shows it.
    pub(crate) listen: String,
    /// The TCP port; 0 for a Unix socket.
    pub(crate) port: u16,
    /// Whether other machines can connect to it.
    pub(crate) exposed: bool,
}

impl ForwardCell {
    /// Returns a pending forward. `changed` is notified when its state changes.
    pub(super) fn new(forward: Forward, changed: Arc<Notify>) -> Self {
        Self {
            forward,
            counters: Arc::default(),
            held: AdmissionQueue::new(MAX_HELD),
            handshaking: AdmissionQueue::new(MAX_HANDSHAKES),
            state: Mutex::new(ListenState::Pending),
            refused: Mutex::new(None),
            changed,
        }
    }

    /// Returns the listen address of the configuration; [`ForwardCell::bound_addr`] is the actual one.
    pub(super) fn listen(&self) -> &ListenAddr {
        match &self.forward {
            Forward::Local { listen, .. }
            | Forward::Remote { listen, .. }
            | Forward::Dynamic { listen } => listen,
        }
    }

    /// Returns whether the server listens (`ssh -R`), not this machine.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.forward, Forward::Remote { .. })
    }

    /// Returns the address that it listens on; `None` while it does not listen.
    pub(super) fn bound_addr(&self) -> Option<BoundAddr> {
        match &*self.state() {
            ListenState::Listening(addr, _) => Some(addr.clone()),
            ListenState::Pending | ListenState::Failed(..) => None,
        }
    }

    /// Returns why the last attempt to listen failed; `None` while it listens or is pending.
    pub(super) fn failure(&self) -> Option<Failure> {
        match &*self.state() {
            ListenState::Failed(failure, _) => Some(failure.clone()),
            ListenState::Pending | ListenState::Listening(..) => None,
        }
    }

    /// Counts a connection as open until the guard is dropped; `None` if `maximum` are open.
    pub(super) fn try_count_connection(&self, maximum: u64) -> Option<CountGuard> {
        let open = &self.counters.connections;
        let below = |open| (open < maximum).then_some(open + 1);
        open.fetch_update(Relaxed, Relaxed, below).ok()?;
        self.counters.total.fetch_add(1, Relaxed);
        Some(CountGuard::counted(
            &self.counters,
            |counters| &counters.connections,
            &self.changed,
        ))
    }

    /// Counts a connection as held until the guard is dropped. Notifies `changed` at once, so that the status
    /// shows the connection while it waits.
    pub(super) fn count_held(&self) -> CountGuard {
        let counted = CountGuard::new(&self.counters, |counters| &counters.held, &self.changed);
        self.changed.notify_one();
        counted
    }

    pub(super) fn set_listening(&self, addr: BoundAddr) {
        self.set(ListenState::Listening(addr, None));
    }

    /// Records that it listens on `addr` but not on all its addresses. Returns whether `failure` is new.
    pub(super) fn set_partly_listening(&self, addr: BoundAddr, failure: Failure) -> bool {
        let known = matches!(
            &*self.state(),
            ListenState::Listening(before, Some((known, _))) if *before == addr && *known == failure
        );
        if !known {
            self.set(ListenState::Listening(
                addr,
                Some((failure, Timestamp::now())),
            ));
        }
        !known
    }

    /// Records that the address could not be bound; `failure` is shown in the status, and the caller retries.
    pub(super) fn set_failed(&self, failure: Failure) {
        {
            let state = self.state();
            // A retry that fails in the same way keeps the time of the first failure and is not reported as a change.
            if matches!(&*state, ListenState::Failed(before, _) if *before == failure) {
                return;
            }
        }
        self.set(ListenState::Failed(failure, Timestamp::now()));
    }

    pub(super) fn set_pending(&self) {
        if !matches!(&*self.state(), ListenState::Pending) {
            self.set(ListenState::Pending);
        }
    }

    /// Records that a connection was refused. `code` is the server's reason code; `None` if it gave none.
    pub(super) fn record_refusal(&self, code: Option<u32>, message: &str) {
        let mut refused = self.refused();
        let before = refused.take();
        let is_new = before
            .as_ref()
            .is_none_or(|before| before.code != code || before.message != message);
        *refused = Some(Refusal {
            code,
            message: message.to_owned(),
            at: Timestamp::now(),
            count: before.map_or(0, |before| before.count).saturating_add(1),
        });
        drop(refused);
        // Clients can cause refusals at any rate. The end of the connection reports the new count.
        if is_new {
            self.changed.notify_one();
        }
    }

    fn refused(&self) -> MutexGuard<'_, Option<Refusal>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: ListenState) {
        *self.state() = state;
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, ListenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state and the counters in the form of the control protocol.
    pub(super) fn status(&self) -> ForwardStatus {
        let (kind, to) = match &self.forward {
            Forward::Local { to, .. } => (ForwardKind::Local, Some(to)),
            Forward::Remote { to, .. } => (ForwardKind::Remote, to.as_ref()),
            Forward::Dynamic { .. } => (ForwardKind::Dynamic, None),
        };
        let mut listen = self.listen().to_string();
        // Before it listens only the configuration can be judged; afterwards the bound addresses decide.
        let mut exposed = is_exposed(self.listen());
        let mut error = None;
        let state = match &*self.state() {
            ListenState::Pending => ForwardState::Pending,
            ListenState::Listening(addr, failed) => {
                listen.clone_from(&addr.listen);
                exposed = addr.exposed;
                error = failed.as_ref().map(wire_error);
                ForwardState::Listening
            }
            ListenState::Failed(failure, at) => {
                error = Some(wire_error(&(failure.clone(), *at)));
                ForwardState::Failed
            }
        };
        ForwardStatus {
            kind,
            listen,
            to: to.map(Endpoint::to_string),
            state,
            error,
            exposed,
            connections: self.counters.connections.load(Relaxed),
            held: self.counters.held.load(Relaxed),
            total: self.counters.total.load(Relaxed),
            bytes_in: self.counters.bytes_in.load(Relaxed),
            bytes_out: self.counters.bytes_out.load(Relaxed),
            refused: self.refused().clone(),
        }
    }
}

fn wire_error((failure, at): &(Failure, Timestamp)) -> LastError {
    LastError::new(
        failure.kind.clone(),
        &failure.message,
        failure.hint.clone(),
        *at,
    )
}

/// Returns whether other machines could connect to a listener on this address, judged by the configuration alone: a name
/// other than `localhost` counts as exposed, because it is not resolved here.
pub(super) fn is_exposed(listen: &ListenAddr) -> bool {
    match listen {
        ListenAddr::Unix(_)
        | ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            ..
        } => false,
        ListenAddr::Tcp {
            bind: BindAddr::Any,
            ..
        } => true,
        ListenAddr::Tcp {
            bind: BindAddr::Host(host),
            ..
        } => match host.parse::<IpAddr>() {
            Ok(ip) => !ip.is_loopback(),
            Err(_) => !host.eq_ignore_ascii_case("localhost"),
        },
    }
}
