//! Requests to resolve one tunnel's configuration again. A tunnel sends one beside each dial, because ssh_config may
//! include files that the watcher does not see, and the result of `Match exec` can change with the network.
//!
//! The reload task answers them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use tunneld_config::model::Tunnel;

/// How long a tunnel waits for the answer: longer than `ssh -G` may take.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(6);

/// Requests that may wait in the queue. Further tunnels wait in [`RefreshHandle::refresh`].
const QUEUE: usize = 64;

/// One tunnel's request for its current configuration.
#[derive(Debug)]
pub struct RefreshRequest {
    /// The name under which the tunnel is configured.
    pub name: String,
    /// Takes the resolved tunnel. Dropped if the configuration cannot be resolved now, or does not need it.
    pub reply: oneshot::Sender<Tunnel>,
}

/// Sends refresh requests. Clones share one queue.
#[derive(Debug, Clone, Default)]
pub struct RefreshHandle(Arc<OnceLock<mpsc::Sender<RefreshRequest>>>);

impl RefreshHandle {
    /// Returns the queue of requests. `None` after the first call: only one task can answer them.
    pub fn take_requests(&self) -> Option<mpsc::Receiver<RefreshRequest>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.0.set(sender).ok()?;
        Some(receiver)
    }

    /// Returns the tunnel as its configuration says now. `None` if nothing answers requests, the configuration cannot
    /// be resolved, or the answer takes longer than [`REFRESH_TIMEOUT`].
    pub(super) async fn refresh(&self, name: &str) -> Option<Tunnel> {
        let requests = self.0.get()?;
        let (reply, answer) = oneshot::channel();
        let name = name.to_owned();
        timeout(REFRESH_TIMEOUT, async {
            requests.send(RefreshRequest { name, reply }).await.ok()?;
            answer.await.ok()
        })
        .await
        .ok()?
    }
}
