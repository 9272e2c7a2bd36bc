//! Limits how many connection attempts run at once: one per server and a total for the daemon. Without it, all tunnels
//! of a server that comes back would connect in the same moment.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::failure::{Failure, FailureKind};
use tunneld_config::model::{Route, Via};

/// The limiter that every dial of the daemon goes through. Clones share the limits.
#[derive(Debug, Clone)]
pub struct ConnectLimiter {
    // Not tokio mutexes: each is held for a lookup, never across an await.
    total: Arc<Mutex<Arc<Semaphore>>>,
    /// One semaphore per server, as long as a dial uses it.
    servers: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
    /// Servers that do not accept connections for a while: until when, and what the first tunnel met.
    turned_away: Arc<Mutex<HashMap<String, (Instant, Failure)>>>,
}

/// How long no tunnel dials a server that does not accept connections from this address. Less than the delay of the
/// tunnel that met it (30 s), whose next dial finds out how it is.
const TURNED_AWAY: Duration = Duration::from_secs(20);

/// Permission to dial. Dropping it lets the next dial start.
#[derive(Debug)]
pub struct ConnectPermit(Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>);

impl ConnectPermit {
    /// Gives the permit back while the dial waits for the user: a user may take minutes, and other tunnels may need no
    /// answer.
    pub fn release_for_prompt(&mut self) {
        self.0 = None;
    }
}

impl ConnectLimiter {
    /// Creates a limiter for `max` dials at once, at least 1.
    pub fn new(max: usize) -> Self {
        Self {
            total: Arc::new(Mutex::new(semaphore(max))),
            servers: Arc::default(),
            turned_away: Arc::default(),
        }
    }

    /// Records how a dial of `route` failed. If the server turns this address away for a while, all tunnels to it wait:
    /// each further connection would only be refused, and may lengthen the penalty.
    pub fn note_failure(&self, route: &Route, failure: &Failure) {
        if failure.kind == FailureKind::NotAllowedNow {
            let until = Instant::now() + TURNED_AWAY;
            let mut turned_away = self.turned_away.lock();
            turned_away.insert(first_server(route), (until, failure.clone()));
        }
    }

    /// The failure of a dial to a server that turns this address away for a while. `None` if `route` may be dialled.
    pub fn turned_away(&self, route: &Route) -> Option<Failure> {
        let mut turned_away = self.turned_away.lock();
        let now = Instant::now();
        turned_away.retain(|_, (until, _)| *until > now);
        let found = turned_away.get(&first_server(route));
        found.map(|(_, failure)| failure.clone())
    }

    /// Waits until `route` may be dialled. `None` only if a semaphore is closed for good, which does not happen.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped future holds no permit, but loses its place in the queue.
    pub async fn acquire(&self, route: &Route) -> Option<ConnectPermit> {
        // The server first: a dial that waits for a busy server takes none of the total.
        let server = self.server(route).acquire_owned().await.ok()?;
        loop {
            let total = Arc::clone(&self.total.lock());
            // `resize` closes the old semaphore: wait at the new one.
            if let Ok(total) = total.acquire_owned().await {
                return Some(ConnectPermit(Some((server, total))));
            }
        }
    }

    /// Changes the total. Dials that run already finish and do not count towards the new total.
    pub fn resize(&self, max: usize) {
        std::mem::replace(&mut *self.total.lock(), semaphore(max)).close();
    }

    fn server(&self, route: &Route) -> Arc<Semaphore> {
        let key = first_server(route);
        let mut servers = self.servers.lock();
        servers.retain(|_, semaphore| semaphore.strong_count() > 0);
        if let Some(semaphore) = servers.get(&key).and_then(Weak::upgrade) {
            return semaphore;
        }
        let semaphore = Arc::new(Semaphore::new(1));
        servers.insert(key, Arc::downgrade(&semaphore));
        semaphore
    }
}

fn semaphore(max: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(max.max(1)))
}

/// Identifies the first SSH server on the way, which handles the first login: the nearest jump host, else the host.
fn first_server(route: &Route) -> String {
    match &route.via {
        Via::Jump(hops) => hops
            .first()
            .map_or_else(|| host_and_port(route), first_server),
        // The command decides which machine answers to the host's name.
        Via::Command(command) => format!("{command} {}", host_and_port(route)),
        Via::Direct | Via::Tunnel(_) => host_and_port(route),
    }
}

fn host_and_port(route: &Route) -> String {
    format!("{}:{}", route.host, route.port)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use tunneld_config::{Env, Loader, ad_hoc};

    async fn route(host: &str) -> Route {
        let loader = Loader::new(
            "/none".into(),
            Env::for_tests("/none"),
            std::sync::Arc::new(tunneld_platform::subprocess::TokioPrograms),
        );
        let keys = serde_json::json!({ "host": host, "ssh_config": false });
        ad_hoc("t", &keys, &loader).await.unwrap().route
    }

    #[tokio::test]
    async fn dials_are_limited_per_server_and_in_total_and_the_total_can_change() {
        let (a, b, c) = (route("a").await, route("b").await, route("c").await);
        let limiter = ConnectLimiter::new(1);
        let first = limiter.acquire(&a).await;
        assert!(
            limiter.acquire(&b).now_or_never().is_none(),
            "a second dial exceeds the total"
        );

        let mut waiting = Box::pin(limiter.acquire(&b));
        assert!(waiting.as_mut().now_or_never().is_none());
        limiter.resize(2);
        let second = waiting.await;
        assert!(second.is_some(), "a waiting dial gets a new permit");
        assert!(
            limiter.acquire(&a).now_or_never().is_none(),
            "one dial per server"
        );
        let third = limiter.acquire(&c).now_or_never();
        assert!(third.is_some(), "the new total is two");
        assert!(limiter.acquire(&route("d").await).now_or_never().is_none());
        drop((first, second, third));
        assert!(limiter.acquire(&a).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn all_tunnels_wait_for_a_server_that_turns_this_address_away() {
        let (a, b) = (route("a").await, route("b").await);
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
