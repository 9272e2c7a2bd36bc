//! Limits how many connection attempts run at once: per server, and for the whole daemon. Without it, all tunnels of a
//! server that comes back would connect in the same moment.
//!
//! A dial that only waits counts in no limit of the daemon: for a host that drops packets, a silent server, an agent, a
//! person, a slow key derivation. At its own server it counts until it is logged in, because the server counts it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::{Failure, FailureKind};
use crate::session::login_budget::LoginBudgets;
use crate::session::server_id::ServerId;
use crate::session::slots::{Slot, Slots};

/// How many connections to one server are not logged in at the same time, until the server shows that it takes fewer.
/// sshd drops further ones at random from 10 on (MaxStartups 10:30:100); two are left for other clients, and for
/// connections that sshd still counts in the moment after their login.
const SERVER_LIMIT: usize = 8;

/// How long the first connection to a server holds back the others. It finds out whether the server turns this address
/// away; one that is only silent must not hold up anybody.
pub(super) const SCOUT_LEASE: Duration = Duration::from_secs(1);

/// Name lookups that run at once. Each occupies a thread of the runtime's 512, for as long as the system's resolver
/// waits for its name servers.
const LOOKUP_LIMIT: usize = 128;

/// How long a dial keeps a slot of the daemon. A handshake works for some milliseconds; what takes longer is waiting.
const WORK_LEASE: Duration = Duration::from_secs(1);

/// The limiter that every dial of the daemon goes through. Clones share the limits.
#[derive(Debug, Clone)]
pub struct ConnectLimiter {
    /// Handshakes that are being worked on (`max_concurrent_connects`).
    handshakes: Slots,
    /// host_commands and ProxyCommands that are being started (`max_concurrent_connects`).
    programs: Slots,
    lookups: Slots,
    // Not tokio mutexes: each is held for a lookup, never across an await.
    servers: Arc<Mutex<HashMap<ServerId, ServerLoad>>>,
    /// Servers that do not accept connections for a while: until when, and what the first tunnel met.
    turned_away: Arc<Mutex<HashMap<ServerId, (Instant, Failure)>>>,
    login_budgets: LoginBudgets,
}

/// How long no tunnel dials a server that does not accept connections from this address. Less than the delay of the
/// tunnel that met it (30 s), whose next dial finds out how it is.
const TURNED_AWAY: Duration = Duration::from_secs(20);

/// The connections to one server that are not logged in.
#[derive(Debug)]
struct ServerLoad {
    /// One slot until the server has shown a host key, so that a server which turns this address away, or is down, is met
    /// once and not by all tunnels.
    slots: Slots,
    /// Whether it has shown a host key, or was silent for [`SCOUT_LEASE`].
    is_open: bool,
    /// One clone in each dial between its connection and its login, also while it waits for a person without a slot.
    pending: Pending,
    /// Logins since the limit changed.
    logins: usize,
}

/// Counts one connection that is not logged in.
type Pending = Arc<()>;

/// The slots that one dial holds. Clones share them; dropping the last one gives the slots back.
#[derive(Debug, Clone, Default)]
pub struct ConnectPermit(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    server: Mutex<Option<Slot>>,
    pending: Mutex<Option<Pending>>,
    work: Mutex<Option<Slot>>,
    /// Since when `work` is held. `None` while it is not.
    work_since: watch::Sender<Option<Instant>>,
}

/// What a dial does in a slot of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Checks a host key and logs in.
    Handshake,
    /// Starts a host_command or a ProxyCommand.
    Program,
}

impl ConnectPermit {
    /// Gives the slots back while the dial waits for the user: a user may take minutes, and other tunnels may need no
    /// answer.
    pub fn release_for_prompt(&self) {
        self.release_work();
        let server = self.0.server.lock().take();
        drop(server);
    }

    /// Ends the dial at its server: gives all slots back, and no longer counts there.
    pub(super) fn release(&self) {
        *self.0.pending.lock() = None;
        self.release_for_prompt();
    }

    pub(super) fn hold_server(&self, slot: Slot, pending: Pending) {
        *self.0.pending.lock() = Some(pending);
        let before = self.0.server.lock().replace(slot);
        drop(before);
    }

    pub(super) fn hold_work(&self, slot: Slot) {
        let before = self.0.work.lock().replace(slot);
        self.0.work_since.send_replace(Some(Instant::now()));
        drop(before);
    }

    fn release_work(&self) {
        let work = self.0.work.lock().take();
        self.0.work_since.send_replace(None);
        drop(work);
    }

    /// Runs `dial`, and gives a slot of the daemon back whenever it was held for [`WORK_LEASE`].
    pub(super) async fn lease<T>(&self, dial: impl Future<Output = T>) -> T {
        tokio::pin!(dial);
        let mut since = self.0.work_since.subscribe();
        loop {
            let began = *since.borrow_and_update();
            let expired = async {
                match began {
                    Some(began) => tokio::time::sleep_until(began + WORK_LEASE).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut dial => return done,
                _ = since.changed() => {}
                () = expired => self.release_work(),
            }
        }
    }

    /// Runs `work` that does not depend on the server. If it takes longer than [`WORK_LEASE`], gives all slots back.
    pub(super) async fn release_if_slow<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        match tokio::time::timeout(WORK_LEASE, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                self.release_for_prompt();
                work.await
            }
        }
    }
}

impl Default for ConnectLimiter {
    fn default() -> Self {
        Self::new(tunneld_config::model::DaemonConfig::default().max_concurrent_connects)
    }
}

impl ConnectLimiter {
    /// Creates a limiter for `max` handshakes at once, at least 1.
    pub fn new(max: usize) -> Self {
        Self {
            handshakes: Slots::new(max),
            programs: Slots::new(max),
            lookups: Slots::new(LOOKUP_LIMIT),
            servers: Arc::default(),
            turned_away: Arc::default(),
            login_budgets: LoginBudgets::default(),
        }
    }

    /// The budgets of logins that may be refused.
    pub(super) fn login_budgets(&self) -> &LoginBudgets {
        &self.login_budgets
    }

    /// Records how a dial of `server` failed. If the server turns this address away for a while, all tunnels to it wait:
    /// each further connection would only be refused, and may lengthen the penalty.
    pub(super) fn note_failure(&self, server: &ServerId, failure: &Failure) {
        if failure.kind == FailureKind::NotAllowedNow {
            let until = Instant::now() + TURNED_AWAY;
            let mut turned_away = self.turned_away.lock();
            turned_away.insert(server.clone(), (until, failure.clone()));
        }
    }

    /// The failure of a dial to a server that turns this address away for a while. `None` if `server` may be dialled.
    pub(super) fn turned_away(&self, server: &ServerId) -> Option<Failure> {
        let mut turned_away = self.turned_away.lock();
        let now = Instant::now();
        turned_away.retain(|_, (until, _)| *until > now);
        let found = turned_away.get(server);
        found.map(|(_, failure)| failure.clone())
    }

    /// Changes how many handshakes run at once. Those that run already continue.
    pub fn resize(&self, max: usize) {
        self.handshakes.set_limit(max);
        self.programs.set_limit(max);
    }

    /// The slots for work of this kind.
    pub(super) fn work(&self, work: Work) -> &Slots {
        match work {
            Work::Handshake => &self.handshakes,
            Work::Program => &self.programs,
        }
    }

    /// The slots for name lookups.
    pub(super) fn lookups(&self) -> &Slots {
        &self.lookups
    }

    /// The slots for connections to `server` that are not logged in.
    pub(super) fn server(&self, server: &ServerId) -> Slots {
        let mut servers = self.servers.lock();
        // What was learned about a server stays; the others are forgotten once nothing dials them.
        servers.retain(|_, load| {
            let is_used = load.slots.used() > 0 || Arc::strong_count(&load.pending) > 1;
            is_used || (load.is_open && load.slots.limit() < SERVER_LIMIT)
        });
        let load = servers.entry(server.clone()).or_insert_with(|| ServerLoad {
            slots: Slots::new(1),
            is_open: false,
            pending: Pending::default(),
            logins: 0,
        });
        load.slots.clone()
    }

    /// Counts a connection to `server` as not logged in, from the moment it has its slot.
    pub(super) fn pending(&self, server: &ServerId) -> Pending {
        let servers = self.servers.lock();
        let counted = servers.get(server).map(|load| Arc::clone(&load.pending));
        counted.unwrap_or_default()
    }

    /// Allows all connections to `server`: it has shown a host key, or is only silent.
    pub(super) fn open_server(&self, server: &ServerId) {
        if let Some(load) = self.servers.lock().get_mut(server)
            && !std::mem::replace(&mut load.is_open, true)
        {
            load.slots.set_limit(SERVER_LIMIT);
        }
    }

    /// Records that `server` dropped a connection before it showed a host key. Returns whether that may be because of
    /// other connections of this daemon that are not logged in: then no more than those are made from now on.
    ///
    /// The dial that was dropped still holds its slot.
    pub(super) fn note_dropped(&self, server: &ServerId) -> bool {
        let mut servers = self.servers.lock();
        let Some(load) = servers.get_mut(server) else {
            return false;
        };
        // Two clones are in the map and in the dial that was dropped.
        if Arc::strong_count(&load.pending) <= 2 {
            return false;
        }
        let others = load.slots.used().saturating_sub(1);
        load.slots.set_limit(others.min(load.slots.limit()));
        load.logins = 0;
        true
    }

    /// Records a login at `server`. After as many as its limit, the limit grows by one again.
    pub(super) fn note_login(&self, server: &ServerId) {
        let mut servers = self.servers.lock();
        let Some(load) = servers.get_mut(server) else {
            return;
        };
        load.logins += 1;
        let limit = load.slots.limit();
        if limit < SERVER_LIMIT && load.logins >= limit {
            load.logins = 0;
            load.slots.set_limit(limit + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::slots::Priority;

    fn server(name: &str) -> ServerId {
        ServerId(name.to_owned())
    }

    #[test]
    fn a_server_that_drops_connections_gets_fewer_and_slowly_more_again() {
        let (limiter, a) = (ConnectLimiter::new(1), server("a"));
        let connect = || Some((limiter.server(&a).try_acquire()?, limiter.pending(&a)));
        let mut held = vec![connect().unwrap()];
        assert!(
            !limiter.note_dropped(&a),
            "no other connection is the cause"
        );
        assert!(connect().is_none(), "the server is not known yet");
        limiter.open_server(&a);
        held.extend(std::iter::from_fn(connect));
        assert_eq!(held.len(), SERVER_LIMIT);
        for _ in 0..5 {
            assert!(limiter.note_dropped(&a));
            held.pop();
        }
        let limit_of = |name: &ServerId| limiter.server(name).limit();
        assert_eq!(limit_of(&a), 3, "the server took three");
        held.clear();
        for (logins, limit) in [(2, 3), (1, 4), (4, 5)] {
            (0..logins).for_each(|_| limiter.note_login(&a));
            assert_eq!(limit_of(&a), limit);
        }
        assert_eq!(limit_of(&server("b")), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_of_the_daemon_is_held_for_a_second_at_most() {
        let limiter = ConnectLimiter::new(1);
        let permit = ConnectPermit::default();
        let slots = limiter.work(Work::Handshake);
        let dial = async {
            permit.hold_work(slots.try_acquire().unwrap());
            let began = Instant::now();
            drop(slots.acquire(Priority::Other).await);
            began.elapsed()
        };
        assert_eq!(permit.lease(dial).await, WORK_LEASE);
    }

    #[tokio::test(start_paused = true)]
    async fn all_tunnels_wait_for_a_server_that_turns_this_address_away() {
        let (a, b) = (server("a"), server("b"));
        let limiter = ConnectLimiter::new(1);
        limiter.note_failure(&a, &Failure::new(FailureKind::Disconnected, "lost"));
        assert_eq!(limiter.turned_away(&a), None);
        let failure = Failure::new(FailureKind::NotAllowedNow, "not now");
        limiter.note_failure(&a, &failure);
        assert_eq!(limiter.turned_away(&a), Some(failure));
        assert_eq!(limiter.turned_away(&b), None);
        tokio::time::advance(TURNED_AWAY).await;
        assert_eq!(limiter.turned_away(&a), None);
    }
}
