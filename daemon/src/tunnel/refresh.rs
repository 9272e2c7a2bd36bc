//! What a tunnel asks beside each dial: whether ssh_config still says of it what it said. Files that it includes change
//! unseen, and what `Match exec` finds changes with the network.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use tunneld_config::model::Tunnel;

/// Longer than ssh may take to answer.
const LIMIT: Duration = Duration::from_secs(6);
/// Tunnels that may wait for their answers.
const WAITING: usize = 64;

/// A tunnel that asks.
#[derive(Debug)]
pub struct RefreshRequest {
    /// Its name.
    pub name: String,
    /// Where the answer goes; dropped where there is nothing new.
    pub fresh: oneshot::Sender<Tunnel>,
}

/// Where tunnels ask; clones ask at the same place.
#[derive(Debug, Clone, Default)]
pub struct RefreshHandle(Arc<OnceLock<mpsc::Sender<RefreshRequest>>>);

impl RefreshHandle {
    /// The end at which it is answered, the first time.
    pub fn answered(&self) -> Option<mpsc::Receiver<RefreshRequest>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.0.set(sender).ok()?;
        Some(receiver)
    }

    /// The tunnel as it is to be now, where anybody knows better.
    pub(super) async fn ask(&self, name: &str) -> Option<Tunnel> {
        let asks = self.0.get()?;
        let (fresh, answer) = oneshot::channel();
        let name = name.to_owned();
        timeout(LIMIT, async {
            asks.send(RefreshRequest { name, fresh }).await.ok()?;
            answer.await.ok()
        })
        .await
        .ok()?
    }
}
