//! The task of one tunnel: feeds the machine with events, carries its actions out, and publishes the result.
//!
//! The task is the only owner of the machine, the session and the forwards. Slow work runs in `work` and reports back;
//! the loop itself waits only for listeners and for the forwards of a new session.

mod activity;
mod carrier;
mod command;
mod open_prompt;
mod prompts;
mod publish;
mod session;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info};
use tunneld_proto::status::Desired;

use self::activity::{Activity, ActivityEvent};
pub use self::command::{Command, SystemChange, UserCommand};
use self::open_prompt::Answered;
pub use self::prompts::prompt_not_found;
use super::answer_cache::SharedAnswers;
use super::machine::{Action, Event, Machine, State};
use super::refresh::RefreshHandle;
use super::registry::{Lease, StatusRegistry};
use super::session_ends::SessionEnds;
use crate::backoff::Backoff;
use crate::failure::{Failure, FailureKind};
use crate::forward::{Forwards, ServerListeners};
use crate::session::DialState;
use crate::session::Established;
use tunneld_config::model::{Liveness, Tunnel};

/// How long a session may take to close in order (`SSH_MSG_DISCONNECT`, TCP). After that it is dropped.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// How long a probed server may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long open connections may continue after the daemon was asked to stop.
const STOP_GRACE: Duration = Duration::from_secs(4);

/// The parts of the daemon that all tunnels share.
#[derive(Clone)]
pub struct TaskContext {
    /// Where each tunnel publishes its status.
    pub registry: StatusRegistry,
    /// The last prompt id that was used.
    pub last_prompt_id: Arc<AtomicU64>,
    /// Recent answers.
    pub answers: SharedAnswers,
    /// State that the dials of all tunnels share: limits, unlocked keys, and the lock for writing known_hosts.
    pub dials: DialState,
    /// What the tunnels have servers listen on.
    pub listeners: ServerListeners,
    /// Resolves a tunnel's configuration again.
    pub refresh: RefreshHandle,
}

/// The task of one tunnel.
pub struct Task {
    config: Arc<Tunnel>,
    context: TaskContext,
    lease: Lease,
    machine: Machine,
    /// What the task holds in the machine's current state.
    activity: Activity,
    history: History,
    forwards: Forwards,
    /// Notified by the forwards when the status of one changes.
    forwards_changed: Arc<Notify>,
    commands: mpsc::Receiver<Command>,
    /// Commands that arrived while a session requested its forwards.
    deferred: VecDeque<Command>,
    /// Background work: dials, closing sessions, probes, refreshes.
    work: JoinSet<WorkResult>,
    /// The last refresh of the configuration, finished or not. `None` before the first.
    refresh: Option<AbortHandle>,
    /// An answer that arrived when its dial had ended. The next dial uses it if the server asks the same.
    kept_answer: Option<Answered>,
}

/// What the status reports but the current state does not contain.
struct History {
    /// When the machine entered its state.
    since: Timestamp,
    /// The last failure. `None` once the tunnel is up again or stopped.
    last_error: Option<(Failure, Timestamp)>,
    /// Sessions that replaced a lost one.
    reconnects: u64,
    /// Whether the last session was lost while it was up, rather than closed on request.
    session_was_lost: bool,
    /// How the last sessions ended.
    ends: SessionEnds,
}

/// The result of background work.
enum WorkResult {
    Dialled {
        epoch: u64,
        result: Box<Result<Established, Failure>>,
    },
    SessionEnded {
        epoch: u64,
        why: Failure,
    },
    Closed {
        epoch: u64,
    },
    ProbeSucceeded,
    /// `None` if the configuration is not resolved differently or cannot be resolved now.
    Refreshed(Option<Box<Tunnel>>),
}

/// What woke the main loop.
enum Wake {
    /// `None` if the supervisor has removed the tunnel.
    Command(Option<Command>),
    Work(Result<WorkResult, JoinError>),
    Activity(ActivityEvent),
    ForwardsChanged,
    Deadline,
}

impl Task {
    /// Registers the tunnel's name, publishes it as stopped, and creates its task.
    ///
    /// Published here and not by [`Self::run`], which first binds the listeners and may search for the holder of a port:
    /// clients must find a tunnel from the moment its configuration was read.
    pub fn new(
        config: Arc<Tunnel>,
        context: TaskContext,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let forwards_changed = Arc::new(Notify::new());
        let task = Self {
            machine: Machine::new(backoff(&config.route.liveness)),
            activity: Activity::Idle,
            forwards: Forwards::new(
                &config.name,
                Arc::clone(&forwards_changed),
                context.listeners.clone(),
            ),
            forwards_changed,
            lease: context.registry.register(&config.name),
            context,
            commands,
            deferred: VecDeque::new(),
            work: JoinSet::new(),
            refresh: None,
            kept_answer: None,
            history: History {
                since: Timestamp::now(),
                last_error: None,
                reconnects: 0,
                session_was_lost: false,
                ends: SessionEnds::default(),
            },
            config,
        };
        let registry = task.context.registry.clone();
        task.forwards.set_pac(Arc::new(move || registry.pac()));
        task.publish();
        task
    }

    /// Runs the tunnel, up or down as `desired` says, until [`Command::Stop`] or until all senders of commands are
    /// dropped.
    pub async fn run(mut self, desired: Desired) {
        match desired {
            Desired::Up => self.handle_user_command(UserCommand::Up).await,
            // Not as a command: the tunnel is stopped already, which needs no log line.
            Desired::Down => {
                self.apply_forwards(desired).await;
                self.publish();
            }
        }
        loop {
            match self.next_event().await {
                Wake::Command(None) => break self.unregister().await,
                Wake::Command(Some(Command::Stop)) => break,
                Wake::Command(Some(command)) => self.handle_command(command).await,
                Wake::Work(result) => self.on_work_done(result).await,
                Wake::Activity(event) => self.on_activity_event(event),
                Wake::ForwardsChanged => self.publish(),
                Wake::Deadline => self.apply(Event::Deadline),
            }
        }
        self.stop().await;
    }

    async fn next_event(&mut self) -> Wake {
        if let Some(command) = self.deferred.pop_front() {
            return Wake::Command(Some(command));
        }
        let deadline = self.machine.deadline();
        tokio::select! {
            command = self.commands.recv() => Wake::Command(command),
            Some(result) = self.work.join_next() => Wake::Work(result),
            event = self.activity.next() => Wake::Activity(event),
            () = self.forwards_changed.notified() => Wake::ForwardsChanged,
            () = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => Wake::Deadline,
        }
    }

    /// Passes an event to the machine, carries the action out, and publishes the new state. The only place where the
    /// state changes, and where the activity is brought in step with it.
    fn apply(&mut self, event: Event) {
        let before = std::mem::discriminant(self.machine.state());
        let action = self.machine.handle(Instant::now(), rand::random(), event);
        match action {
            Some(Action::Dial { epoch }) => self.start_dial(epoch),
            Some(Action::Close { epoch }) => self.start_close(epoch),
            Some(Action::Probe { epoch }) => self.start_probe(epoch),
            None => {}
        }
        self.activity
            .follow(self.machine.state(), &self.config.route);
        if matches!(
            self.machine.state(),
            State::Stopped | State::Closing { .. } | State::Failed { .. }
        ) {
            // No dial follows by itself, so the secret has no use any more.
            self.kept_answer = None;
        }
        // Not for each new phase or prompt within a state.
        if std::mem::discriminant(self.machine.state()) != before {
            self.history.since = Timestamp::now();
            self.log_state();
        }
        self.publish();
    }

    fn on_activity_event(&mut self, event: ActivityEvent) {
        match event {
            ActivityEvent::Phase { epoch, phase } => {
                self.apply(Event::PhaseChanged { epoch, phase });
            }
            ActivityEvent::Prompt(prompt) => self.ask(prompt),
            ActivityEvent::SharedPromptFinished => self.apply(Event::AnswerReady),
            ActivityEvent::CarrierUp => self.apply(Event::CarrierUp),
            ActivityEvent::CheckFiles => self.check_files(),
        }
    }

    /// Dials again if the user has changed what the last failure depends on.
    fn check_files(&mut self) {
        if self.activity.files_have_changed() {
            info!(
                tunnel = self.config.name,
                "a key, a known_hosts file or the agent has changed: trying again"
            );
            self.apply(Event::FilesChanged);
        }
    }

    async fn on_work_done(&mut self, result: Result<WorkResult, JoinError>) {
        match result {
            Ok(WorkResult::Dialled { epoch, result }) => match *result {
                Ok(established) => self.attach(epoch, established).await,
                Err(why) => self.on_session_lost(epoch, why),
            },
            Ok(WorkResult::SessionEnded { epoch, why }) => self.on_session_lost(epoch, why),
            Ok(WorkResult::Closed { epoch }) => self.apply(Event::Closed { epoch }),
            // Publishes the round-trip time that the probe measured.
            Ok(WorkResult::ProbeSucceeded) => self.publish(),
            Ok(WorkResult::Refreshed(current)) => {
                if let Some(current) = current {
                    self.take_refreshed(*current).await;
                }
            }
            // An aborted dial.
            Err(error) if error.is_cancelled() => {}
            Err(panic) => self.on_panic(&panic),
        }
    }

    /// Replaces the session after a panic in background work: which of its parts still work is unknown.
    fn on_panic(&mut self, panic: &JoinError) {
        let message = "a bug in tunneld ended the session";
        error!(tunnel = self.config.name, "{message}: {panic}");
        if let Some(epoch) = self.machine.live_epoch() {
            self.on_session_lost(epoch, Failure::new(FailureKind::Internal, message));
        }
    }

    /// Removes the tunnel from the registry once its addresses are free, so that a successor can bind them as soon as
    /// clients see that the tunnel is gone.
    async fn unregister(&mut self) {
        self.forwards.set_desired(&[]).await;
        self.context
            .registry
            .unregister(self.lease, &self.config.name);
    }

    async fn stop(mut self) {
        // Closes the prompts and aborts the dial.
        let session = match self.activity.take() {
            Activity::Live(live) => Some(live.session),
            _ => None,
        };
        self.work.shutdown().await;
        // The forwards before the session, so that open connections can finish within the grace period.
        self.forwards.close(STOP_GRACE).await;
        if let Some(session) = session {
            let _ = timeout(CLOSE_GRACE, session.close()).await;
        }
    }
}

fn backoff(liveness: &Liveness) -> Backoff {
    Backoff {
        initial: liveness.backoff_initial,
        max: liveness.backoff_max,
    }
}

#[cfg(test)]
mod tests;
