//! The configuration's way into the running daemon: read all, prove all, apply what changed. One task does it, so
//! that two reloads never cross; the watcher, SIGHUP and `config.reload` ask it alike.

pub mod watcher;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{ConfigFault, ReloadReport};

use self::watcher::Watcher;
use crate::log::Log;
use crate::state_file::StateFile;
use crate::supervisor::Supervisor;
use crate::tunnel::refresh::RefreshRequest;
use tunneld_config::load::{Loaded, Loader, ad_hoc};
use tunneld_config::model::{DaemonConfig, Tunnel};
use tunneld_config::save::save;
use tunneld_platform::service::{ServiceState, notify_manager};

/// Tunnels that are resolved again at once.
const AT_ONCE: usize = 8;

/// A handle to the task.
#[derive(Clone)]
pub struct ReloadHandle {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

enum Request {
    Reload(oneshot::Sender<ReloadReport>),
    Prove {
        name: String,
        spec: Value,
        reply: oneshot::Sender<Result<Tunnel, Vec<ConfigFault>>>,
    },
}

struct Shared {
    dir: PathBuf,
    // What the last reading told; set and copied, never held across an await.
    told: Mutex<Diagnostics>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Diagnostics {
    faults: Vec<ConfigFault>,
    notes: Vec<String>,
}

/// The task's own.
pub struct ReloadTask {
    loader: Loader,
    daemon: DaemonConfig,
    log: Option<Log>,
    store: Arc<StateFile>,
    supervisor: Supervisor,
    requests: mpsc::Receiver<Request>,
    shared: Arc<Shared>,
    retry: Retry,
    stale: mpsc::Receiver<RefreshRequest>,
    /// Who may ask ssh now.
    turns: Arc<Semaphore>,
}

/// When the configuration is read once more by itself: something failed that may go well another time.
#[derive(Debug, Default)]
struct Retry {
    tries: u32,
    at: Option<Instant>,
}

impl Retry {
    /// Between two tries at most.
    const SELDOM: Duration = Duration::from_secs(60);

    fn note(&mut self, failed: bool) {
        self.tries = if failed {
            self.tries.saturating_add(1)
        } else {
            0
        };
        let pause = Duration::from_secs(1 << self.tries.min(6)).min(Self::SELDOM);
        self.at = failed.then(|| Instant::now() + pause);
    }

    async fn due(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

impl ReloadHandle {
    /// A reloader of `dir` that goes on from a first reading. With `log`, `[daemon] log` changes the log's level.
    pub fn new(
        dir: PathBuf,
        loader: Loader,
        first: &Loaded,
        log: Option<Log>,
        store: Arc<StateFile>,
        supervisor: Supervisor,
    ) -> (Self, ReloadTask) {
        let (requests, inbox) = mpsc::channel(16);
        // A second reloader, which there is none of, would answer nobody.
        let stale = supervisor.stale().unwrap_or_else(|| mpsc::channel(1).1);
        let told = Diagnostics::default();
        let shared = Arc::new(Shared {
            dir,
            told: Mutex::new(told),
        });
        let mut task = ReloadTask {
            loader,
            daemon: first.daemon.clone(),
            log,
            store,
            supervisor,
            requests: inbox,
            shared: shared.clone(),
            retry: Retry::default(),
            stale,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        };
        task.retry.note(first.try_again);
        task.tell(first);
        (Self { requests, shared }, task)
    }

    /// The configuration directory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The configuration's present faults.
    pub fn faults(&self) -> Vec<ConfigFault> {
        self.shared.told().faults.clone()
    }

    /// What a person should know of the configuration as a whole.
    pub fn notes(&self) -> Vec<String> {
        self.shared.told().notes.clone()
    }

    async fn request<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, RpcError> {
        let stopping = || RpcError::new(ErrorKind::Stopping, "the daemon is stopping");
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(make(reply)).await;
        sent.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Reads the configuration again and applies it.
    ///
    /// # Errors
    /// `stopping`. Faults of the configuration are part of the result.
    pub async fn reload(&self) -> Result<ReloadReport, RpcError> {
        self.request(Request::Reload).await
    }

    /// Proves a tunnel made on the command line.
    ///
    /// # Errors
    /// Every fault of it.
    pub async fn prove(&self, name: &str, spec: &Value) -> Result<Tunnel, RpcError> {
        let (name, spec) = (name.to_owned(), spec.clone());
        let proved = self.request(|reply| Request::Prove { name, spec, reply });
        proved.await?.map_err(refused)
    }

    /// Writes a proved tunnel to the configuration and applies it; the file's name.
    ///
    /// # Errors
    /// What stands in the way, and then the file is as it was.
    pub async fn save(&self, name: &str, spec: &Value) -> Result<String, RpcError> {
        let before = self.faults();
        let (dir, name, spec) = (self.shared.dir.clone(), name.to_owned(), spec.clone());
        let saved = off_runtime(move || save(&dir, &name, &spec)).await?;
        let saved = saved.map_err(|fault| refused(vec![fault]))?;
        self.reload().await?;
        let mut fresh = self.faults();
        fresh.retain(|fault| !before.contains(fault));
        if fresh.is_empty() {
            return Ok(saved.path.display().to_string());
        }
        let file = saved.path.display().to_string();
        if let Err(error) = off_runtime(move || saved.undo()).await? {
            tracing::error!("{file} has faults, and could not be made what it was: {error}");
        }
        self.reload().await?;
        Err(refused(fresh))
    }
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Diagnostics> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the configuration: the files on a thread of their own, since a home on a network file system may hang.
pub async fn load(loader: &mut Loader) -> Loaded {
    let scan = loader.scan();
    let scanned = tokio::task::spawn_blocking(move || scan.run()).await;
    let now = Instant::now().into_std();
    match scanned {
        Ok(scanned) => loader.finish(scanned, now).await,
        Err(error) => loader.finish_without(&error.to_string(), now).await,
    }
}

/// Runs blocking `work` on a thread of its own.
async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RpcError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| RpcError::new(ErrorKind::Internal, format!("a thread failed: {error}")))
}

fn refused(faults: Vec<ConfigFault>) -> RpcError {
    let message = match &faults[..] {
        [only] => only.message.clone(),
        all => format!("{} faults", all.len()),
    };
    RpcError::new(ErrorKind::Config, message).causes(faults.into_iter().map(|fault| fault.rendered))
}

impl ReloadTask {
    /// Reloads whenever it is asked to, or the directory changes.
    pub async fn run(mut self, mut watcher: Watcher) {
        let mut refreshing = JoinSet::new();
        loop {
            let request = tokio::select! {
                Some(stale) = self.stale.recv() => {
                    self.refresh(stale, &mut refreshing);
                    continue;
                }
                Some(_) = refreshing.join_next() => continue,
                request = self.requests.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
                () = watcher.changed() => None,
                () = self.retry.due() => None,
            };
            // Whoever asked may have gone meanwhile.
            match request {
                Some(Request::Reload(reply)) => drop(reply.send(self.reload().await)),
                Some(Request::Prove { name, spec, reply }) => {
                    drop(reply.send(ad_hoc(&name, &spec, &self.loader).await));
                }
                None => drop(self.reload().await),
            }
        }
    }

    /// Resolves one tunnel again, beside all else and its own dial.
    fn refresh(&self, stale: RefreshRequest, refreshing: &mut JoinSet<()>) {
        let made = self.store.made().remove(&stale.name);
        let Some(again) =
            self.loader
                .refresh_job(&stale.name, made.as_ref(), Instant::now().into_std())
        else {
            return;
        };
        let turns = Arc::clone(&self.turns);
        refreshing.spawn(async move {
            let Ok(_turn) = turns.acquire().await else {
                return;
            };
            match again.resolve().await {
                // Whoever asked may have gone meanwhile.
                Ok(fresh) => drop(stale.fresh.send(fresh)),
                Err(why) => tracing::warn!(
                    tunnel = stale.name,
                    "its configuration cannot be resolved now, and stays what it was: {why}"
                ),
            }
        });
    }

    async fn reload(&mut self) -> ReloadReport {
        notify_manager(&ServiceState::Reloading);
        let loaded = load(&mut self.loader).await;
        let fresh = self.tell(&loaded);
        self.retry.note(loaded.try_again);
        self.set_daemon(loaded.daemon);
        let applied = self.supervisor.apply(loaded.tunnels).await;
        let applied = applied.unwrap_or_default();
        self.bring_back().await;
        notify_manager(&ServiceState::Ready);
        let report = ReloadReport {
            added: applied.added,
            changed: applied.changed,
            removed: applied.removed,
            errors: loaded.faults,
        };
        let ReloadReport {
            added,
            changed,
            removed,
            ..
        } = &report;
        if fresh || !(added.is_empty() && changed.is_empty() && removed.is_empty()) {
            let faults = report.errors.len();
            tracing::info!(?added, ?changed, ?removed, faults, "configuration read");
            self.supervisor.reloaded(report.clone());
        }
        report
    }

    /// Brings back what could not be before, such as while ssh did not answer.
    async fn bring_back(&self) {
        let statuses = self.supervisor.statuses();
        let there: Vec<&str> = statuses.iter().map(|tunnel| tunnel.name.as_str()).collect();
        for tunnel in bring_back(&self.store, &self.loader, &there).await {
            // The daemon stops, or somebody was quicker.
            let _ = self.supervisor.add(tunnel).await;
        }
    }

    /// Keeps and logs what the reading told; whether it is something else than before.
    fn tell(&self, loaded: &Loaded) -> bool {
        let fresh = Diagnostics {
            faults: loaded.faults.clone(),
            notes: loaded.notes.clone(),
        };
        let mut told = self.shared.told();
        if fresh.faults != told.faults {
            log_faults(&fresh.faults);
        }
        if fresh.notes != told.notes {
            fresh.notes.iter().for_each(|note| tracing::warn!("{note}"));
        }
        let changed = fresh != *told;
        *told = fresh;
        changed
    }

    fn set_daemon(&mut self, daemon: DaemonConfig) {
        if daemon.max_concurrent_connects != self.daemon.max_concurrent_connects {
            self.supervisor
                .limit_connects(daemon.max_concurrent_connects);
        }
        if daemon.log != self.daemon.log
            && let Some(log) = &self.log
            && let Err(error) =
                log.set_filter(daemon.log.as_deref().unwrap_or(crate::log::DEFAULT_FILTER))
        {
            tracing::warn!("[daemon] log: {error:#}");
        }
        self.daemon = daemon;
    }
}

/// The tunnels that an earlier daemon was told to make, without those that are `there` already.
pub(crate) async fn bring_back(store: &StateFile, loader: &Loader, there: &[&str]) -> Vec<Tunnel> {
    let mut made = Vec::new();
    for (name, spec) in store.made() {
        if there.contains(&name.as_str()) {
            continue;
        }
        match ad_hoc(&name, &spec, loader).await {
            Ok(tunnel) => made.push(tunnel),
            Err(faults) => {
                for fault in faults {
                    let why = fault.message;
                    tracing::error!(
                        tunnel = name,
                        "not brought back from the command line: {why}"
                    );
                }
            }
        }
    }
    made
}

/// Logs each fault with its place.
fn log_faults(faults: &[ConfigFault]) {
    for fault in faults {
        let place = [fault.line, fault.column].into_iter().flatten();
        let place: String = place.map(|number| format!(":{number}")).collect();
        tracing::error!("{}{place}: {}", fault.file, fault.message);
    }
}
