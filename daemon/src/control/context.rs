//! State that all connections of the control socket share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tunneld_proto::error::RpcError;
use tunneld_proto::message::WebOpened;

use crate::log::Log;
use crate::reload::ReloadHandle;
use crate::state_file::StateFile;
use crate::supervisor::Supervisor;
use crate::web::Sources;

/// Everything that calls on the control socket read or change; shared by all connections.
pub struct ControlContext {
    /// Owner of the tunnel tasks.
    pub supervisor: Supervisor,
    /// Handle to the task that reads the configuration.
    pub reloader: ReloadHandle,
    /// What must survive a restart of the daemon: the last `up` or `down` of each tunnel, and ad-hoc tunnels.
    pub state_file: Arc<StateFile>,
    /// The running log, for `log.tail` and `log.set_level`.
    pub log: Log,
    /// Path or pipe name of the control socket, as `daemon.status` reports it.
    pub socket: String,
    /// Remarks on how the control socket was chosen, for `daemon.status`.
    pub notes: Vec<String>,
    /// Start of the daemon.
    pub started_at: Timestamp,
    /// Number of connected clients.
    pub client_count: AtomicUsize,
    /// Cancelled when the daemon begins to stop, by a signal or by `daemon.shutdown`. Commands are refused from then
    /// on, but clients can still watch the tunnels go down.
    pub stopping: CancellationToken,
    /// Cancelled when all tunnels have stopped. Connections end then.
    pub stopped: CancellationToken,
    /// Takes the requests of `web.open`.
    pub web: mpsc::Sender<WebRequest>,
}

/// Where the address of the web page is sent to.
pub type WebRequest = oneshot::Sender<Result<WebOpened, RpcError>>;

impl ControlContext {
    /// What the answers of `http_listen` are made from.
    pub fn sources(&self) -> Sources {
        Sources {
            supervisor: self.supervisor.clone(),
            reloader: self.reloader.clone(),
            started_at: self.started_at,
        }
    }
}
