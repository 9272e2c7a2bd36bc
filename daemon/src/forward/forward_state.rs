//! What is known of one forward: whether it stands, where, why not, and its figures.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;
use tunneld_proto::status::{ForwardKind, ForwardState, ForwardStatus, LastError};

use super::counters::{CountGuard, Counters};
use crate::failure::Failure;
use tunneld_config::addr::{BindAddr, Endpoint, ListenAddr};
use tunneld_config::model::Forward;

/// One forward, as it stands.
pub(crate) struct ForwardCell {
    /// The forward itself.
    pub(super) forward: Forward,
    /// Its figures.
    pub(super) counters: Arc<Counters>,
    // A std mutex: nothing is awaited while it is held.
    state: Mutex<ListenState>,
    changed: Arc<Notify>,
}

enum ListenState {
    Pending,
    Listening(BoundAddr),
    Failed(Failure, Timestamp),
}

/// Where a forward really listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundAddr {
    /// The address, as it is shown.
    pub(super) listen: String,
    /// The port; 0 for a Unix socket.
    pub(super) port: u16,
    /// Whether other machines reach it.
    pub(super) exposed: bool,
}

impl ForwardCell {
    /// A forward that nobody has asked for yet.
    pub(super) fn new(forward: Forward, changed: Arc<Notify>) -> Self {
        Self {
            forward,
            counters: Arc::default(),
            state: Mutex::new(ListenState::Pending),
            changed,
        }
    }

    /// Where it listens by the configuration.
    pub(super) fn listen(&self) -> &ListenAddr {
        match &self.forward {
            Forward::Local { listen, .. }
            | Forward::Remote { listen, .. }
            | Forward::Dynamic { listen } => listen,
        }
    }

    /// Whether it listens at the far side.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.forward, Forward::Remote { .. })
    }

    /// Where it got to listen; none while it does not stand.
    pub(super) fn bound_addr(&self) -> Option<BoundAddr> {
        match &*self.state() {
            ListenState::Listening(place) => Some(place.clone()),
            ListenState::Pending | ListenState::Failed(..) => None,
        }
    }

    /// Why it does not stand, if it was tried.
    pub(super) fn failure(&self) -> Option<Failure> {
        match &*self.state() {
            ListenState::Failed(failure, _) => Some(failure.clone()),
            ListenState::Pending | ListenState::Listening(_) => None,
        }
    }

    /// Counts a connection as open until the guard goes.
    pub(super) fn count_connection(&self) -> CountGuard {
        self.counters.total.fetch_add(1, Relaxed);
        CountGuard::new(
            &self.counters,
            |counters| &counters.connections,
            &self.changed,
        )
    }

    /// Counts a connection as held until the guard goes, and tells it.
    pub(super) fn count_held(&self) -> CountGuard {
        let counted = CountGuard::new(&self.counters, |counters| &counters.held, &self.changed);
        self.changed.notify_one();
        counted
    }

    /// It stands now.
    pub(super) fn set_listening(&self, place: BoundAddr) {
        self.set(ListenState::Listening(place));
    }

    /// It could not be had.
    pub(super) fn set_failed(&self, failure: Failure) {
        {
            let state = self.state();
            // The time of a failure is that of its first; a retry that fails alike changes nothing.
            if matches!(&*state, ListenState::Failed(before, _) if *before == failure) {
                return;
            }
        }
        self.set(ListenState::Failed(failure, Timestamp::now()));
    }

    /// It waits to be asked for.
    pub(super) fn set_pending(&self) {
        if !matches!(&*self.state(), ListenState::Pending) {
            self.set(ListenState::Pending);
        }
    }

    fn set(&self, state: ListenState) {
        *self.state() = state;
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, ListenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, as it is told.
    pub(super) fn status(&self) -> ForwardStatus {
        let (kind, to) = match &self.forward {
            Forward::Local { to, .. } => (ForwardKind::Local, Some(to)),
            Forward::Remote { to, .. } => (ForwardKind::Remote, to.as_ref()),
            Forward::Dynamic { .. } => (ForwardKind::Dynamic, None),
        };
        let mut listen = self.listen().to_string();
        let mut exposed = is_exposed(self.listen());
        let mut error = None;
        let state = match &*self.state() {
            ListenState::Pending => ForwardState::Pending,
            ListenState::Listening(place) => {
                listen.clone_from(&place.listen);
                exposed = place.exposed;
                ForwardState::Listening
            }
            ListenState::Failed(failure, at) => {
                error = Some(LastError {
                    kind: failure.kind.as_str().to_owned(),
                    message: failure.message.clone(),
                    hint: failure.hint.clone(),
                    at: *at,
                });
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
        }
    }
}

/// Whether other machines reach a listener that is made as this says, as far as the words tell.
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
