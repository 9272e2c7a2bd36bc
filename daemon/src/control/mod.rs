//! The control socket: who may speak, how much, and what each call does. One line is one JSON-RPC 2.0 object.

mod connection;
mod dispatch;
mod outbox;
mod request;
mod server;
mod stream;
mod subscriptions;
#[cfg(test)]
mod tests;
mod wait;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::log::Log;
use crate::reload::ReloadHandle;
use crate::state_file::StateFile;
use crate::supervisor::Supervisor;

pub use server::serve;

/// What the calls work on.
pub struct Context {
    /// The tunnels.
    pub supervisor: Supervisor,
    /// The configuration.
    pub reloader: ReloadHandle,
    /// What outlives a restart.
    pub store: Arc<StateFile>,
    /// The log.
    pub log: Log,
    /// The control socket, as it is told.
    pub socket: String,
    /// What a person should know of the daemon.
    pub notes: Vec<String>,
    /// Since when the daemon runs.
    pub since: Timestamp,
    /// Clients now.
    pub clients: AtomicUsize,
    /// Cancelled when the daemon is to stop: by a signal or by `daemon.shutdown`.
    pub stopping: CancellationToken,
    /// Cancelled when the tunnels have stopped: the connections end.
    pub stopped: CancellationToken,
}
