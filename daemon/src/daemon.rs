//! The running daemon: starts the tasks around the supervisor, passes on signals and system events, notifies the
//! service manager, and stops everything in order.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tunneld_proto::endpoint::Listener;
use tunneld_proto::status::{ForwardKind, ForwardState, State, TunnelStatus};

use crate::control::{self, ControlContext, WebRequest};
use crate::hooks::{Askpass, Hooks};
use crate::reload::ReloadTask;
use crate::reload::watcher::Watcher;
use crate::web::HttpListen;
use crate::web_page::WebPage;
use tunneld_config::model::DaemonConfig;
use tunneld_platform::events::{SystemEvent, SystemEvents};
use tunneld_platform::heap::{self, MemoryTrimmer};
use tunneld_platform::service::{ServiceState, notify_manager, watchdog_interval};
use tunneld_platform::signals::{Signal, Signals};

/// Longest wait for the first local listeners before the daemon reports that it is ready.
const BIND_TIMEOUT: Duration = Duration::from_secs(2);
/// Time in which the remaining tasks must end after the tunnels have stopped.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);
/// Time in which the last log lines must be written.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_millis(300);
/// Shortest interval between two status lines for the service manager.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// All tasks of the daemon, and what they share.
pub(crate) struct Daemon {
    pub(crate) context: Arc<ControlContext>,
    pub(crate) tasks: JoinSet<()>,
}

impl Daemon {
    /// Starts the tasks: reloading, the control socket, the service manager's status line, hooks.
    pub(crate) fn serve(&mut self, listener: Listener, reload_task: ReloadTask, watcher: Watcher) {
        let stopping = self.context.stopping.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = reload_task.run(watcher) => {}
            }
        });
        self.tasks
            .spawn(control::serve(listener, self.context.clone()));
        self.tasks.spawn(publish_status_line(self.context.clone()));
        let ControlContext {
            supervisor,
            stopping,
            ..
        } = &*self.context;
        // Hooks get their prompts as events, so that a slow hook never delays a tunnel.
        let hooks = Hooks::new(
            supervisor.clone(),
            Askpass::from_env(&|name| std::env::var_os(name)),
        );
        self.tasks.spawn(hooks.run(stopping.clone()));
    }

    /// Starts the task that serves `http_listen`; `config` has `[daemon]` as it is in force.
    pub(crate) fn serve_http(&mut self, config: watch::Receiver<DaemonConfig>) {
        let http = HttpListen::new(self.context.sources(), config);
        self.tasks.spawn(http.run(self.context.stopping.clone()));
    }

    /// Starts the task that answers `web.open`; redirect files are written to `folder`.
    pub(crate) fn serve_web_page(
        &mut self,
        requests: mpsc::Receiver<WebRequest>,
        folder: Option<PathBuf>,
    ) {
        let page = WebPage::new(self.context.clone(), requests, folder);
        self.tasks.spawn(page.run());
    }

    /// Reports the daemon as ready once each local listener of the first configuration is bound or has failed.
    ///
    /// Units ordered after this one can then connect to the forwarded ports. READY does not wait for SSH sessions: a
    /// host that does not answer must not delay the boot.
    pub(crate) async fn notify_ready(&self) {
        let (_, mut events) = self.context.supervisor.subscribe();
        let bound = async {
            while self.context.supervisor.statuses().iter().any(is_binding) {
                if events.recv().await.is_err() {
                    return;
                }
            }
        };
        // A listener that takes longer is shown as pending in the status of its tunnel.
        let _ = timeout(BIND_TIMEOUT, bound).await;
        notify_manager(&ServiceState::Ready);
    }

    /// Passes on system events and signals, sends watchdog pings and trims memory until the daemon must stop.
    pub(crate) async fn run_until_stop(&mut self, signals: &mut Signals) {
        let mut system_events = SystemEvents::watch();
        let ControlContext {
            supervisor,
            reloader,
            stopping,
            ..
        } = &*self.context;
        let mut watchdog = watchdog_interval().map(delayed_interval);
        // Work that takes time runs beside this loop, so that a slow reload never delays a stop or a ping.
        let mut background = JoinSet::new();
        let mut memory = MemoryTrimmer::default();
        let mut trim = delayed_interval(heap::TRIM_INTERVAL);
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => return stopping.cancel(),
                    Signal::Reload => {
                        tracing::info!("SIGHUP: reloading the configuration");
                        let reloader = reloader.clone();
                        background.spawn(async move { drop(reloader.reload().await) });
                    }
                },
                () = stopping.cancelled() => return,
                event = system_events.next() => match event {
                    SystemEvent::Network => {
                        tracing::debug!("the network addresses changed");
                        supervisor.network_changed().await;
                    }
                    SystemEvent::Woke(gap) => {
                        tracing::info!("the system slept for {} s", gap.as_secs());
                        supervisor.woke().await;
                    }
                },
                () = tick(&mut watchdog) => {
                    // The ping is sent only if the supervisor answers: a supervisor that hangs gets the daemon restarted.
                    let supervisor = supervisor.clone();
                    background.spawn(async move {
                        if supervisor.alive().await.is_ok() {
                            notify_manager(&ServiceState::Alive);
                        }
                    });
                }
                Some(_) = background.join_next() => {}
                _ = trim.tick() => memory.trim(),
            }
        }
    }

    /// Stops the daemon: refuses new commands, takes the tunnels down, sends clients their last events, unlinks the
    /// socket.
    pub(crate) async fn stop(mut self) {
        notify_manager(&ServiceState::Stopping);
        tracing::info!("stopping");
        self.context.stopping.cancel();
        self.context.supervisor.stop().await;
        // Only now: until here the clients have followed how the tunnels went down.
        self.context.stopped.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        tracing::info!("stopped");
        self.context.log.flush(LOG_FLUSH_TIMEOUT);
    }
}

/// Returns an interval that, after a pause of the process, continues with one tick instead of all missed ones.
fn delayed_interval(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits for the next tick, for ever if `interval` is `None`.
async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// Returns whether a local listener of the tunnel is neither bound nor has failed. Remote forwards do not count: they
/// need a session.
fn is_binding(tunnel: &TunnelStatus) -> bool {
    tunnel.state != State::Stopped
        && tunnel.forwards.iter().any(|forward| {
            forward.kind != ForwardKind::Remote && forward.state == ForwardState::Pending
        })
}

/// Sends the status line to the service manager whenever it changes, at most once per [`STATUS_INTERVAL`].
async fn publish_status_line(context: Arc<ControlContext>) {
    let (_, mut events) = context.supervisor.subscribe();
    let mut published = String::new();
    loop {
        let line = status_line(&context.supervisor.statuses());
        if line != published {
            notify_manager(&ServiceState::Status(&line));
            published = line;
        }
        let mut pause = std::pin::pin!(sleep(STATUS_INTERVAL));
        let mut changed = false;
        loop {
            tokio::select! {
                () = context.stopping.cancelled() => return,
                () = &mut pause, if changed => break,
                event = events.recv() => match event {
                    Err(RecvError::Closed) => return,
                    _ => changed = true,
                },
            }
        }
    }
}

/// Returns a summary with the errors of the first three tunnels that are not up, such as
/// `5/6 up, db: the server refused every key`.
fn status_line(tunnels: &[TunnelStatus]) -> String {
    let is_up = |tunnel: &&TunnelStatus| matches!(tunnel.state, State::Up | State::Degraded);
    let started = tunnels
        .iter()
        .filter(|tunnel| tunnel.state != State::Stopped);
    let mut line = format!(
        "{}/{} up",
        tunnels.iter().filter(is_up).count(),
        started.count()
    );
    let not_up = tunnels
        .iter()
        .filter(|tunnel| !is_up(tunnel) && tunnel.state != State::Stopped);
    for tunnel in not_up.take(3) {
        if let Some(error) = &tunnel.last_error {
            // Writing to a String cannot fail.
            let _ = write!(line, ", {}: {}", tunnel.name, error.message);
        }
    }
    line
}
