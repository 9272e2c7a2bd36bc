//! What runs while the daemon runs: what happens to the machine and what signals ask for is passed on, the service
//! manager is told, and the end comes in order.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tunneld_proto::endpoint::Listener;
use tunneld_proto::status::{ForwardKind, ForwardState, State, TunnelStatus};

use crate::control::{self, Context};
use crate::hooks::{Askpass, Hooks};
use crate::reload::ReloadTask;
use crate::reload::watcher::Watcher;
use tunneld_platform::events::{SystemEvent, SystemEvents};
use tunneld_platform::heap::{self, MemoryTrimmer};
use tunneld_platform::service::{ServiceState, notify_manager, watchdog_interval};
use tunneld_platform::signals::{Signal, Signals};

/// The first listeners have so long to be bound before the daemon says that it is ready.
const BINDING: Duration = Duration::from_secs(2);
/// What is left when the tunnels have stopped has so long to end.
const ENDING: Duration = Duration::from_millis(1500);
/// The log's last lines have so long to be written.
const LAST_LINES: Duration = Duration::from_millis(300);
/// How often the service manager's status line may change.
const STATUS_LINE: Duration = Duration::from_secs(1);

/// What runs, and what stops it.
pub(crate) struct Daemon {
    pub(crate) context: Arc<Context>,
    pub(crate) tasks: JoinSet<()>,
}

impl Daemon {
    /// Begins to hear clients and the configuration directory.
    pub(crate) fn serve(&mut self, listener: Listener, reloading: ReloadTask, watcher: Watcher) {
        let stopping = self.context.stopping.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = reloading.run(watcher) => {}
            }
        });
        self.tasks
            .spawn(control::serve(listener, self.context.clone()));
        self.tasks.spawn(tell_status(self.context.clone()));
        let Context {
            supervisor,
            stopping,
            ..
        } = &*self.context;
        let hooks = Hooks::new(
            supervisor.clone(),
            Askpass::of(&|name| std::env::var_os(name)),
        );
        self.tasks.spawn(hooks.run(stopping.clone()));
    }

    /// Says that the daemon is ready once the first local listeners are bound, or have failed to be.
    pub(crate) async fn ready(&self) {
        let (_, mut events) = self.context.supervisor.subscribe();
        let bound = async {
            while self.context.supervisor.statuses().iter().any(is_binding) {
                if events.recv().await.is_err() {
                    return;
                }
            }
        };
        // A listener that takes longer is told of in the tunnel's status.
        let _ = timeout(BINDING, bound).await;
        notify_manager(&ServiceState::Ready);
    }

    /// Passes on what happens to the machine and what signals ask for, until one says stop.
    pub(crate) async fn watch(&mut self, signals: &mut Signals) {
        let mut machine = SystemEvents::watch();
        let Context {
            supervisor,
            reloader,
            stopping,
            ..
        } = &*self.context;
        let mut alive = watchdog_interval().map(|every| {
            let mut alive = interval(every);
            alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
            alive
        });
        let mut asides = JoinSet::new();
        let mut heap = MemoryTrimmer::default();
        let mut look = interval(heap::TRIM_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => return stopping.cancel(),
                    Signal::Reload => {
                        tracing::info!("SIGHUP: the configuration is read again");
                        let reloader = reloader.clone();
                        asides.spawn(async move { drop(reloader.reload().await) });
                    }
                },
                () = stopping.cancelled() => return,
                happening = machine.next() => match happening {
                    SystemEvent::Network => {
                        tracing::debug!("the network's addresses changed");
                        supervisor.network_changed().await;
                    }
                    SystemEvent::Woke(gap) => {
                        tracing::info!("slept for {} s", gap.as_secs());
                        supervisor.woke().await;
                    }
                },
                () = tick(&mut alive) => {
                    // The ping is sent by what proves that the supervisor's own loop turns.
                    let supervisor = supervisor.clone();
                    asides.spawn(async move {
                        if supervisor.alive().await.is_ok() {
                            notify_manager(&ServiceState::Alive);
                        }
                    });
                }
                Some(_) = asides.join_next() => {}
                _ = look.tick() => heap.trim(),
            }
        }
    }

    /// No new commands, the tunnels down in order, the clients told, the socket unlinked.
    pub(crate) async fn stop(mut self) {
        notify_manager(&ServiceState::Stopping);
        tracing::info!("stopping");
        self.context.stopping.cancel();
        self.context.supervisor.stop().await;
        self.context.stopped.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(ENDING, ended).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        tracing::info!("stopped");
        self.context.log.flush(LAST_LINES);
    }
}

async fn tick(every: &mut Option<Interval>) {
    match every {
        Some(every) => drop(every.tick().await),
        None => std::future::pending().await,
    }
}

fn is_binding(tunnel: &TunnelStatus) -> bool {
    tunnel.state != State::Stopped
        && tunnel.forwards.iter().any(|forward| {
            forward.kind != ForwardKind::Remote && forward.state == ForwardState::Pending
        })
}

/// Keeps the service manager's status line true.
async fn tell_status(context: Arc<Context>) {
    let (_, mut events) = context.supervisor.subscribe();
    let mut told = String::new();
    loop {
        let line = status_line(&context.supervisor.statuses());
        if line != told {
            notify_manager(&ServiceState::Status(&line));
            told = line;
        }
        let mut pause = std::pin::pin!(sleep(STATUS_LINE));
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

/// `5/6 up, db: the server refused every key`.
fn status_line(tunnels: &[TunnelStatus]) -> String {
    let is_up = |tunnel: &&TunnelStatus| matches!(tunnel.state, State::Up | State::Degraded);
    let wanted = tunnels
        .iter()
        .filter(|tunnel| tunnel.state != State::Stopped);
    let mut line = format!(
        "{}/{} up",
        tunnels.iter().filter(is_up).count(),
        wanted.count()
    );
    let troubled = tunnels
        .iter()
        .filter(|tunnel| !is_up(tunnel) && tunnel.state != State::Stopped);
    for tunnel in troubled.take(3) {
        if let Some(error) = &tunnel.last_error {
            // Writing to a String cannot fail.
            let _ = write!(line, ", {}: {}", tunnel.name, error.message);
        }
    }
    line
}
