//! How many handshakes run at once: one a server, so many in all, so that no herd meets a server that comes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use tunneld_config::model::{Route, Via};

/// The gate that every dial of the daemon passes.
#[derive(Debug, Clone)]
pub struct ConnectLimiter {
    // Std mutexes: nothing is awaited under them.
    all: Arc<Mutex<Arc<Semaphore>>>,
    servers: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// The right to dial; given back when dropped.
#[derive(Debug)]
pub struct ConnectPermit(Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>);

impl ConnectPermit {
    /// Gives the places back: a person who thinks must not hold up a tunnel that needs none.
    pub fn wait_for_a_person(&mut self) {
        self.0 = None;
    }
}

impl ConnectLimiter {
    /// A gate for `most` handshakes in all.
    pub fn new(most: usize) -> Self {
        Self {
            all: Arc::new(Mutex::new(places(most))),
            servers: Arc::default(),
        }
    }

    /// Waits for the right to dial `route`.
    pub async fn pass(&self, route: &Route) -> Option<ConnectPermit> {
        let server = self.server(route).acquire_owned().await.ok()?;
        loop {
            let all = Arc::clone(&self.all.lock().unwrap_or_else(PoisonError::into_inner));
            // Closed where the number was changed meanwhile.
            if let Ok(all) = all.acquire_owned().await {
                return Some(ConnectPermit(Some((server, all))));
            }
        }
    }

    /// Lets `most` handshakes run at once from now on; those under way end in their own time, uncounted.
    pub fn resize(&self, most: usize) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *all, places(most)).close();
    }

    fn server(&self, route: &Route) -> Arc<Semaphore> {
        let key = first_server(route);
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = servers.get(&key).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::new(Semaphore::new(1));
        servers.insert(key, Arc::downgrade(&gate));
        gate
    }
}

fn places(most: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(most.max(1)))
}

/// The server that meets the handshake first: the nearest jump host, else the host.
fn first_server(route: &Route) -> String {
    match &route.via {
        Via::Jump(hops) => hops.first().map_or_else(|| own(route), first_server),
        Via::Command(command) => format!("{command} {}", own(route)),
        Via::Direct | Via::Tunnel(_) => own(route),
    }
}

fn own(route: &Route) -> String {
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
        let spec = serde_json::json!({ "host": host, "ssh_config": false });
        ad_hoc("t", &spec, &loader).await.unwrap().route
    }

    #[tokio::test]
    async fn one_a_server_and_so_many_in_all_which_may_change() {
        let (a, b, c) = (route("a").await, route("b").await, route("c").await);
        let gate = ConnectLimiter::new(1);
        let first = gate.pass(&a).await;
        assert!(gate.pass(&b).now_or_never().is_none(), "the second in all");

        let mut waiting = Box::pin(gate.pass(&b));
        assert!(waiting.as_mut().now_or_never().is_none());
        gate.resize(2);
        let second = waiting.await;
        assert!(second.is_some(), "who waited is let in");
        assert!(gate.pass(&a).now_or_never().is_none(), "one a server");
        let third = gate.pass(&c).now_or_never();
        assert!(third.is_some(), "two of the new places");
        assert!(gate.pass(&route("d").await).now_or_never().is_none());
        drop((first, second, third));
        assert!(gate.pass(&a).now_or_never().is_some());
    }
}
