//! How many handshakes run at once: one a server, so many in all, so that no herd meets a server that comes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::model::{Route, Via};

/// The gate that every dial of the daemon passes.
#[derive(Debug, Clone)]
pub struct Gate {
    all: Arc<Semaphore>,
    // A std mutex: only the map is touched under it, nothing is awaited.
    servers: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// The right to dial; given back when dropped.
#[derive(Debug)]
pub struct Pass(Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>);

impl Pass {
    /// Gives the places back: a person who thinks must not hold up a tunnel that needs none.
    pub fn wait_for_a_person(&mut self) {
        self.0 = None;
    }
}

impl Gate {
    /// A gate for `most` handshakes in all.
    pub fn new(most: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(most.max(1))),
            servers: Arc::default(),
        }
    }

    /// Waits for the right to dial `route`.
    pub async fn pass(&self, route: &Route) -> Option<Pass> {
        let server = self.server(route).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Pass(Some((server, all))))
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
