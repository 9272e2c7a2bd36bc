//! Handle through which the control socket, signals and the start of the daemon reach the reload task.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{ConfigFault, ReloadReport};

use super::slow_programs::Patience;
use tunneld_config::model::Tunnel;
use tunneld_config::save::save;

/// Handle to the [`ReloadTask`](super::ReloadTask); clones share it.
#[derive(Clone)]
pub struct ReloadHandle {
    pub(super) requests: mpsc::Sender<ReloadRequest>,
    pub(super) shared: Arc<SharedDiagnostics>,
}

pub(super) enum ReloadRequest {
    Reload {
        patience: Patience,
        reply: oneshot::Sender<ReloadReport>,
    },
    /// Reload only if the directory has changed since the last reading.
    ReadChanges(oneshot::Sender<()>),
    CheckTunnel {
        name: String,
        /// Keys of `[tunnel.NAME]` as JSON.
        spec: Value,
        reply: oneshot::Sender<Result<Tunnel, Vec<ConfigFault>>>,
    },
}

/// State that the handles read without asking the task.
pub(super) struct SharedDiagnostics {
    pub(super) dir: PathBuf,
    // Result of the last reading; replaced and copied, never locked across an await.
    pub(super) diagnostics: Mutex<Diagnostics>,
}

/// What is wrong with the configuration, or worth knowing about it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Diagnostics {
    pub(super) faults: Vec<ConfigFault>,
    pub(super) notes: Vec<String>,
}

impl ReloadHandle {
    /// Returns the configuration directory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Returns the faults that the last reading found.
    pub fn faults(&self) -> Vec<ConfigFault> {
        self.shared.lock().faults.clone()
    }

    /// Returns remarks on the configuration as a whole that are not faults, for `daemon.status`.
    pub fn notes(&self) -> Vec<String> {
        self.shared.lock().notes.clone()
    }

    async fn request<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> ReloadRequest,
    ) -> Result<T, RpcError> {
        let stopping = || RpcError::new(ErrorKind::Stopping, "the daemon is stopping");
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(make(reply)).await;
        sent.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Reads the configuration again and applies it. Returns when the supervisor has the new tunnels. Faults of the
    /// configuration are part of the report.
    ///
    /// # Errors
    /// `stopping` if the daemon is stopping.
    pub async fn reload(&self) -> Result<ReloadReport, RpcError> {
        self.reload_with(Patience::Short).await
    }

    async fn reload_with(&self, patience: Patience) -> Result<ReloadReport, RpcError> {
        self.request(|reply| ReloadRequest::Reload { patience, reply })
            .await
    }

    /// Reads the configuration if it has changed since the last reading, and waits for a reading under way. Returns after
    /// `limit` at the latest; the reading continues then.
    ///
    /// # Errors
    /// `stopping` if the daemon is stopping.
    pub async fn read_changes(&self, limit: Duration) -> Result<(), RpcError> {
        timeout(limit, self.request(ReloadRequest::ReadChanges))
            .await
            .unwrap_or(Ok(()))
    }

    /// Checks a tunnel given on the command line and resolves it, without adding it.
    ///
    /// # Errors
    /// `config` with all faults as its causes, or `stopping`.
    pub async fn check_tunnel(&self, name: &str, spec: &Value) -> Result<Tunnel, RpcError> {
        let (name, spec) = (name.to_owned(), spec.clone());
        let checked = self.request(|reply| ReloadRequest::CheckTunnel { name, spec, reply });
        checked.await?.map_err(config_error)
    }

    /// Writes a tunnel that was checked to the configuration, reloads, and returns the path of the changed file.
    ///
    /// # Errors
    /// `config` if the file cannot be written, or if the configuration has more faults with the tunnel than without.
    /// The file has its old contents again in that case.
    pub async fn save(&self, name: &str, spec: &Value) -> Result<String, RpcError> {
        let before = self.faults();
        let (dir, name, spec) = (self.shared.dir.clone(), name.to_owned(), spec.clone());
        let saved = run_blocking(move || save(&dir, &name, &spec)).await?;
        let saved = saved.map_err(|fault| config_error(vec![fault]))?;
        // A host whose `ssh -G` is slow must not count as a new fault.
        self.reload_with(Patience::Full).await?;
        // A tunnel that is correct by itself can still collide with others, for example by its listen address. Only
        // a reading of the whole configuration shows that.
        let mut added = self.faults();
        added.retain(|fault| !before.contains(fault));
        if added.is_empty() {
            return Ok(saved.path.display().to_string());
        }
        let file = saved.path.display().to_string();
        if let Err(error) = run_blocking(move || saved.undo()).await? {
            tracing::error!(
                "{file} has faults, and its old contents could not be restored: {error}"
            );
        }
        self.reload().await?;
        Err(config_error(added))
    }
}

impl SharedDiagnostics {
    pub(super) fn lock(&self) -> MutexGuard<'_, Diagnostics> {
        self.diagnostics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RpcError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| RpcError::new(ErrorKind::Internal, format!("a thread failed: {error}")))
}

fn config_error(faults: Vec<ConfigFault>) -> RpcError {
    let message = match &faults[..] {
        [only] => only.message.clone(),
        all => format!("{} errors in the configuration", all.len()),
    };
    RpcError::new(ErrorKind::Config, message).causes(faults.into_iter().map(|fault| fault.rendered))
}
