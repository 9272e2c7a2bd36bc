//! The task that reads the configuration and gives the result to the supervisor.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tunneld_proto::message::{ConfigFault, ReloadReport};

use super::handle::{Diagnostics, ReloadHandle, ReloadRequest, SharedDiagnostics};
use super::reader::ConfigReader;
use super::slow_programs::Patience;
use super::watcher::Watcher;
use crate::log::Log;
use crate::state_file::StateFile;
use crate::supervisor::Supervisor;
use crate::tunnel::refresh::RefreshRequest;
use tunneld_config::load::{Loaded, TryAgain};
use tunneld_config::model::DaemonConfig;
use tunneld_platform::service::{ServiceState, notify_manager};

/// Tunnels that are resolved again at the same time; each may run one `ssh -G` process.
const MAX_CONCURRENT_REFRESHES: usize = 8;
/// Requests that may wait for the task.
const REQUEST_QUEUE: usize = 16;

/// Task that owns the [`ConfigReader`] and applies what it reads.
pub struct ReloadTask {
    reader: ConfigReader,
    /// `[daemon]` section that is in force.
    daemon: watch::Sender<DaemonConfig>,
    /// `None` if the command line or `RUST_LOG` sets the filter: the configuration does not change it then.
    log: Option<Log>,
    state_file: Arc<StateFile>,
    supervisor: Supervisor,
    requests: mpsc::Receiver<ReloadRequest>,
    shared: Arc<SharedDiagnostics>,
    retry: RetryTimer,
    /// Tunnels that want to be resolved again before their next dial.
    refreshes: mpsc::Receiver<RefreshRequest>,
    /// Limits concurrent refreshes to [`MAX_CONCURRENT_REFRESHES`].
    refresh_permits: Arc<Semaphore>,
}

/// Timer for a reading without a request, after one that could not read everything.
#[derive(Debug, Default)]
struct RetryTimer {
    /// Failed readings in a row.
    failures: u32,
    /// Time of the next reading; `None` after a success.
    at: Option<Instant>,
    /// Whether something could not be read: a command of the user is a reason to look again at once.
    is_unread: bool,
}

impl RetryTimer {
    /// Longest delay between two readings. The delays double from 2 s.
    const MAX_DELAY: Duration = Duration::from_secs(60);
    /// Longest delay while something could not be read: a user who has mended it waits for the tunnel.
    const MAX_DELAY_SOON: Duration = Duration::from_secs(5);

    /// Records the result of a reading.
    fn record(&mut self, try_again: TryAgain) {
        let limit = match try_again {
            TryAgain::OnChange => {
                *self = Self::default();
                return;
            }
            TryAgain::Backoff => Self::MAX_DELAY,
            TryAgain::Soon => Self::MAX_DELAY_SOON,
        };
        self.is_unread = try_again == TryAgain::Soon;
        self.failures = self.failures.saturating_add(1);
        let delay = Duration::from_secs(1 << self.failures.min(6)).min(limit);
        self.at = Some(Instant::now() + delay);
    }

    /// Waits for the time of the next reading, for ever if there is none.
    async fn expired(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// Dependencies of a [`ReloadTask`].
pub struct ReloadContext {
    /// The configuration directory.
    pub dir: PathBuf,
    /// Reads the directory; it remembers the last good state of each file.
    pub reader: ConfigReader,
    /// Log whose filter follows `[daemon] log`. `None` if the command line or `RUST_LOG` sets the filter.
    pub log: Option<Log>,
    /// Ad-hoc tunnels, which every reload tries to restore.
    pub state_file: Arc<StateFile>,
    /// Receiver of the tunnels that were read.
    pub supervisor: Supervisor,
    /// `[daemon]` as it is in force. The task updates it.
    pub daemon: watch::Sender<DaemonConfig>,
}

impl ReloadTask {
    /// Returns a handle and its task, which continues from `first`, the reading at the start of the daemon.
    pub fn new(context: ReloadContext, first: &Loaded) -> (ReloadHandle, Self) {
        let ReloadContext {
            dir,
            reader,
            log,
            state_file,
            supervisor,
            daemon,
        } = context;
        let (requests, request_receiver) = mpsc::channel(REQUEST_QUEUE);
        // The supervisor gives its receiver to the first caller. There is one reload task per supervisor; a second one
        // would get a channel without senders.
        let refreshes = supervisor
            .take_refresh_requests()
            .unwrap_or_else(|| mpsc::channel(1).1);
        let shared = Arc::new(SharedDiagnostics {
            dir,
            diagnostics: Mutex::default(),
        });
        let mut task = Self {
            reader,
            daemon,
            log,
            state_file,
            supervisor,
            requests: request_receiver,
            shared: shared.clone(),
            retry: RetryTimer::default(),
            refreshes,
            refresh_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_REFRESHES)),
        };
        task.retry.record(first.try_again);
        task.update_diagnostics(first);
        (ReloadHandle { requests, shared }, task)
    }

    /// Handles requests, and reloads when the directory changes or a retry is due. Returns when all handles are
    /// dropped.
    pub async fn run(mut self, mut watcher: Watcher) {
        // Tunnels that are resolved by themselves.
        let mut resolving = JoinSet::new();
        loop {
            let request = tokio::select! {
                Some(refresh) = self.refreshes.recv() => {
                    self.refresh(refresh, &mut resolving);
                    continue;
                }
                Some(_) = resolving.join_next() => continue,
                request = self.requests.recv() => match request {
                    Some(request) => request,
                    None => return,
                },
                () = watcher.changed() => {
                    self.reload(true, Patience::Short).await;
                    continue;
                }
                () = self.retry.expired() => {
                    self.reload(false, Patience::Short).await;
                    continue;
                }
                () = self.reader.late_answer() => {
                    self.reload(false, Patience::Short).await;
                    continue;
                }
            };
            // A reply fails if the client that asked has disconnected meanwhile. The reload counts all the same.
            match request {
                ReloadRequest::Reload { patience, reply } => {
                    drop(reply.send(self.reload(true, patience).await));
                }
                ReloadRequest::ReadChanges(reply) => {
                    if watcher.take_change() || self.retry.is_unread {
                        self.reload(true, Patience::Short).await;
                    }
                    let _ = reply.send(());
                }
                ReloadRequest::CheckTunnel { name, spec, reply } => {
                    match self.reader.loader().ad_hoc_job(&name, &spec) {
                        Ok(job) => {
                            resolving.spawn(async move { drop(reply.send(job.resolve().await)) });
                        }
                        Err(faults) => drop(reply.send(Err(faults))),
                    }
                }
            }
        }
    }

    /// Resolves one tunnel again (`ssh -G`, tokens) in a separate task: neither a reload nor the tunnel's dial waits
    /// for it.
    fn refresh(&self, refresh: RefreshRequest, resolving: &mut JoinSet<()>) {
        let ad_hoc_spec = self.state_file.ad_hoc().remove(&refresh.name);
        let now = Instant::now().into_std();
        let Some(job) = self
            .reader
            .loader()
            .refresh_job(&refresh.name, ad_hoc_spec.as_ref(), now)
        else {
            return;
        };
        let permits = Arc::clone(&self.refresh_permits);
        resolving.spawn(async move {
            let Ok(_permit) = permits.acquire().await else {
                return;
            };
            match job.resolve().await {
                // The send fails if the tunnel was removed meanwhile.
                Ok(tunnel) => drop(refresh.reply.send(tunnel)),
                Err(faults) => {
                    let errors: Vec<&str> =
                        faults.iter().map(|fault| fault.message.as_str()).collect();
                    tracing::warn!(
                        tunnel = refresh.name,
                        "its configuration cannot be resolved now and stays unchanged: {}",
                        errors.join("; ")
                    );
                }
            }
        });
    }

    /// Reads the configuration and applies it. Without `anew` it continues the last reading, for the sake of what was not
    /// answered then.
    async fn reload(&mut self, anew: bool, patience: Patience) -> ReloadReport {
        notify_manager(&ServiceState::Reloading);
        let loaded = self.reader.read(anew, patience).await;
        let diagnostics_changed = self.update_diagnostics(&loaded);
        self.retry.record(loaded.try_again);
        self.apply_daemon_config(loaded.daemon);
        let applied = self.supervisor.apply(loaded.tunnels).await;
        let applied = applied.unwrap_or_default();
        // After the configured tunnels: those have precedence if an ad-hoc tunnel has the same name.
        self.restore_ad_hoc().await;
        // Ends RELOADING=1, also after faults: the daemon runs on with the last good configuration.
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
        // Most readings change nothing (an editor's save of the same text, a retry) and would only fill the log.
        let tunnels_changed = !(added.is_empty() && changed.is_empty() && removed.is_empty());
        if diagnostics_changed || tunnels_changed {
            let faults = report.errors.len();
            tracing::info!(?added, ?changed, ?removed, faults, "configuration read");
            self.supervisor.announce_reload(report.clone());
        }
        report
    }

    /// Adds the ad-hoc tunnels that could not be resolved before, for example while `ssh -G` did not answer.
    async fn restore_ad_hoc(&self) {
        let statuses = self.supervisor.statuses();
        let present: Vec<&str> = statuses.iter().map(|tunnel| tunnel.name.as_str()).collect();
        for tunnel in self.reader.restore_ad_hoc(&self.state_file, &present).await {
            // Fails if the daemon stops, or if a client has added a tunnel of that name meanwhile.
            let _ = self.supervisor.restore(tunnel).await;
        }
    }

    /// Stores and logs the diagnostics of a reading. Returns whether they differ from the last ones.
    fn update_diagnostics(&self, loaded: &Loaded) -> bool {
        let new = Diagnostics {
            faults: loaded.faults.clone(),
            notes: loaded.notes.clone(),
        };
        let mut current = self.shared.lock();
        if new.faults != current.faults {
            log_faults(&new.faults);
        }
        if new.notes != current.notes {
            new.notes.iter().for_each(|note| tracing::warn!("{note}"));
        }
        let changed = new != *current;
        *current = new;
        changed
    }

    fn apply_daemon_config(&mut self, daemon: DaemonConfig) {
        let before = self.daemon.borrow().clone();
        if daemon.max_concurrent_connects != before.max_concurrent_connects {
            self.supervisor
                .limit_connects(daemon.max_concurrent_connects);
        }
        // Only a change of the key sets the filter: a reload must not undo `log.set_level`.
        if daemon.log != before.log
            && let Some(log) = &self.log
            && let Err(error) =
                log.set_filter(daemon.log.as_deref().unwrap_or(crate::log::DEFAULT_FILTER))
        {
            tracing::warn!("[daemon] log: {error:#}");
        }
        self.daemon.send_replace(daemon);
    }
}

/// Logs each fault with its file, line and column.
fn log_faults(faults: &[ConfigFault]) {
    for fault in faults {
        let position = [fault.line, fault.column].into_iter().flatten();
        let position: String = position.map(|number| format!(":{number}")).collect();
        tracing::error!("{}{position}: {}", fault.file, fault.message);
    }
}
