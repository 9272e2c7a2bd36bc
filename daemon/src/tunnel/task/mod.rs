//! The actor of one tunnel: feeds the machine, carries its actions out, tells the board.

mod aside;
mod carrier;
mod command;
mod prompts;
mod publish;
mod session;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;
use tunneld_proto::status::{Desired, Phase, Prompt, SessionStatus};

use self::carrier::Carrier;
pub use self::command::Command;
use self::prompts::{SharedPrompt, Waiting};
use super::answer_cache::AnswerCache;
use super::connect_limiter::{ConnectLimiter, ConnectPermit};
use super::credential_watch::{self, FileSnapshot};
use super::machine::{Action, Event, Machine, State};
use super::refresh::RefreshHandle;
use crate::backoff::Backoff;
use crate::failure::{Failure, FailureKind, Recovery};
use crate::forward::Forwards;
use crate::prompt::{PendingPrompt, PromptRequest};
use crate::session::{Established, Session};
use crate::tunnel::registry::{Lease, StatusRegistry};
use tunneld_config::model::{Liveness, Tunnel};

/// How long a session may take to end in order.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// How long a probed session may take to answer.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// How long connections may go on after the daemon was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(4);

/// What all tunnels share.
#[derive(Clone)]
pub struct Shared {
    /// Where each tells of itself.
    pub board: StatusRegistry,
    /// How many dial at once.
    pub gate: ConnectLimiter,
    /// The last prompt id given out.
    pub prompts: Arc<AtomicU64>,
    /// Answers given just now. A std mutex: nothing is awaited under it.
    pub recent: Arc<Mutex<AnswerCache>>,
    /// Where each asks, before it dials, whether it is still what it was.
    pub refresher: RefreshHandle,
}

/// One tunnel.
pub struct Task {
    spec: Arc<Tunnel>,
    desired: Desired,
    tenant: Lease,
    machine: Machine,
    shared: Shared,
    commands: mpsc::Receiver<Command>,
    deferred: VecDeque<Command>,
    forwards: Forwards,
    changed: Arc<Notify>,
    work: JoinSet<Done>,
    dial: Option<Dial>,
    /// Whether an answer is awaited on what ssh_config says by now.
    refreshing: bool,
    /// The tunnel that carried the last dial, or should have.
    carrier: Option<Carrier>,
    session: Option<Live>,
    asked: Option<Waiting>,
    /// What the session asks beside its work.
    asides: Vec<Waiting>,
    /// Another tunnel's prompt that this one waits behind.
    behind: Option<SharedPrompt>,
    /// An answer given while the tunnel was parked, for the same question of the next dial.
    answered: Option<(PromptRequest, Vec<SecretString>)>,
    /// What this dial was answered, worth keeping once it has let us in.
    given: Vec<(PromptRequest, Vec<SecretString>)>,
    /// What it stands still for, while it stands still.
    causes: Option<FileSnapshot>,
    facts: History,
}

/// A dial under way.
struct Dial {
    epoch: u64,
    abort: AbortHandle,
    phases: mpsc::UnboundedReceiver<Phase>,
    asks: mpsc::Receiver<PendingPrompt>,
    passes: mpsc::UnboundedReceiver<ConnectPermit>,
    pass: Option<ConnectPermit>,
}

/// A session that stands.
struct Live {
    epoch: u64,
    session: Session,
    told: SessionStatus,
    /// Where it asks what it can do without.
    asks: Option<mpsc::Receiver<PendingPrompt>>,
}

/// What is told and not computed.
struct History {
    since: Timestamp,
    last_error: Option<(Failure, Timestamp)>,
    reconnects: u64,
    /// Whether the last session was lost rather than ended as asked.
    was_lost: bool,
}

/// What a piece of work has come to.
enum Done {
    Dialled {
        epoch: u64,
        result: Box<Result<Established, Failure>>,
    },
    Ended {
        epoch: u64,
        why: Failure,
    },
    Closed {
        epoch: u64,
    },
    ProbeOk,
    Refreshed(Option<Box<Tunnel>>),
}

/// What woke the loop.
enum Wake {
    Command(Option<Command>),
    Done(Result<Done, tokio::task::JoinError>),
    Phase(Phase),
    PendingPrompt(PendingPrompt),
    ConnectPermit(ConnectPermit),
    ForwardsChanged,
    Deadline,
    LookForRemedy,
    FirstMovedOn,
    AsksNothingMore,
    CarrierUp,
}

impl Task {
    /// A tunnel as it begins; `desired` says whether it comes up at once.
    pub fn new(
        spec: Arc<Tunnel>,
        desired: Desired,
        shared: Shared,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            machine: Machine::new(backoff(&spec.route.liveness)),
            forwards: Forwards::new(&spec.name, Arc::clone(&changed)),
            tenant: shared.board.let_name(&spec.name),
            desired,
            shared,
            commands,
            deferred: VecDeque::new(),
            changed,
            work: JoinSet::new(),
            dial: None,
            refreshing: false,
            carrier: None,
            session: None,
            asked: None,
            asides: Vec::new(),
            behind: None,
            answered: None,
            given: Vec::new(),
            causes: None,
            facts: History {
                since: Timestamp::now(),
                last_error: None,
                reconnects: 0,
                was_lost: false,
            },
            spec,
        }
    }

    /// Runs until it is told to stop, or nobody is left to tell it.
    pub async fn run(mut self) {
        match self.desired {
            Desired::Up => self.obey(Command::Up).await,
            Desired::Down => {
                self.apply_forwards().await;
                self.publish();
            }
        }
        loop {
            match self.stir().await {
                Wake::Command(None) => break self.leave().await,
                Wake::Command(Some(Command::Stop)) => break,
                Wake::Command(Some(command)) => self.obey(command).await,
                Wake::Done(done) => self.done(done).await,
                Wake::Phase(phase) => self.reached(phase),
                Wake::PendingPrompt(asked) => self.ask(asked),
                Wake::ConnectPermit(pass) => {
                    if let Some(dial) = &mut self.dial {
                        dial.pass = Some(pass);
                    }
                }
                Wake::ForwardsChanged => self.publish(),
                Wake::Deadline => self.step(Event::Deadline),
                Wake::LookForRemedy => self.look_for_remedy(),
                Wake::FirstMovedOn => self.step(Event::AnswerReady),
                Wake::AsksNothingMore => {
                    if let Some(live) = &mut self.session {
                        live.asks = None;
                    }
                }
                Wake::CarrierUp => self.step(Event::CarrierUp),
            }
        }
        self.stop().await;
    }

    async fn stir(&mut self) -> Wake {
        if let Some(command) = self.deferred.pop_front() {
            return Wake::Command(Some(command));
        }
        let deadline = self.machine.deadline();
        let dial = &mut self.dial;
        let behind = &mut self.behind;
        let live = self.session.as_mut().and_then(|live| live.asks.as_mut());
        let waits = matches!(self.machine.state(), State::Waiting { .. });
        let carrier = self.carrier.as_mut().filter(|_| waits);
        tokio::select! {
            command = self.commands.recv() => Wake::Command(command),
            Some(done) = self.work.join_next() => Wake::Done(done),
            stir = async {
                match dial {
                    Some(dial) => tokio::select! {
                        biased;
                        Some(pass) = dial.passes.recv() => Wake::ConnectPermit(pass),
                        Some(phase) = dial.phases.recv() => Wake::Phase(phase),
                        Some(asked) = dial.asks.recv() => Wake::PendingPrompt(asked),
                        else => std::future::pending().await,
                    },
                    None => std::future::pending().await,
                }
            } => stir,
            () = async {
                match behind {
                    Some(behind) => behind.moved_on().await,
                    None => std::future::pending().await,
                }
            } => Wake::FirstMovedOn,
            asked = async {
                match live {
                    Some(asks) => asks.recv().await,
                    None => std::future::pending().await,
                }
            } => match asked {
                Some(asked) => Wake::PendingPrompt(asked),
                None => Wake::AsksNothingMore,
            },
            () = async {
                match carrier {
                    Some(carrier) => carrier.stands_anew().await,
                    None => std::future::pending().await,
                }
            } => Wake::CarrierUp,
            () = self.changed.notified() => Wake::ForwardsChanged,
            () = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => Wake::Deadline,
            () = tokio::time::sleep(credential_watch::LOOK), if self.causes.is_some() => Wake::LookForRemedy,
        }
    }

    /// Takes an event to the machine, carries the action out, tells the board.
    fn step(&mut self, event: Event) {
        let before = std::mem::discriminant(self.machine.state());
        let action = self.machine.on(Instant::now(), rand::random(), event);
        if std::mem::discriminant(self.machine.state()) != before {
            self.facts.since = Timestamp::now();
            self.tell_log();
        }
        let still = match self.machine.state() {
            State::Failed { why } | State::Waiting { why, .. } => Some(why.verdict()),
            _ => None,
        };
        match still.filter(|verdict| *verdict != Recovery::Retry) {
            Some(verdict) => {
                self.causes
                    .get_or_insert_with(|| FileSnapshot::of(&self.spec.route, verdict));
            }
            None => self.causes = None,
        }
        match action {
            Some(Action::Dial { epoch }) => self.start_dial(epoch),
            Some(Action::Close { epoch }) => self.start_close(epoch),
            Some(Action::Probe { epoch }) => self.start_probe(epoch),
            None => {}
        }
        if !matches!(
            self.machine.state(),
            State::NeedsInput { .. } | State::AwaitingAnswer { .. }
        ) {
            self.drop_prompt();
            self.behind = None;
        }
        self.publish();
    }

    /// What it waits for: its own prompt, or the one of the tunnel before it.
    fn prompt(&self) -> Option<&Prompt> {
        let own = self.asked.as_ref().map(|waiting| &waiting.prompt);
        own.or(self.behind.as_ref().map(|behind| &behind.prompt))
    }

    fn look_for_remedy(&mut self) {
        if self.causes.as_ref().is_some_and(FileSnapshot::have_changed) {
            info!(
                tunnel = self.spec.name,
                "a key, a known_hosts file or the agent has changed: trying again"
            );
            self.step(Event::WantUp);
        }
    }

    async fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Dialled { epoch, result }) => match *result {
                Ok(established) => self.attach(epoch, established).await,
                Err(why) => self.lost(epoch, why),
            },
            Ok(Done::Ended { epoch, why }) => self.lost(epoch, why),
            Ok(Done::Closed { epoch }) => self.step(Event::Closed { epoch }),
            Ok(Done::ProbeOk) => self.publish(),
            Ok(Done::Refreshed(fresh)) => {
                self.refreshing = false;
                if let Some(fresh) = fresh {
                    self.take(*fresh).await;
                }
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(
                    tunnel = self.spec.name,
                    "a defect of tunneld ended the session: {error}"
                );
                if let Some(epoch) = self.machine.live_epoch() {
                    self.lost(
                        epoch,
                        Failure::new(
                            FailureKind::Internal,
                            "a defect of tunneld ended the session",
                        ),
                    );
                }
            }
        }
    }

    fn reached(&mut self, phase: Phase) {
        if let Some(epoch) = self.dial.as_ref().map(|dial| dial.epoch) {
            self.step(Event::PhaseChanged { epoch, phase });
        }
    }

    /// Nobody commands it any more: it is gone as soon as its addresses are free.
    async fn leave(&mut self) {
        self.forwards.set_desired(&[]).await;
        self.shared.board.leave(self.tenant, &self.spec.name);
    }

    async fn stop(mut self) {
        self.drop_prompt();
        self.drop_asides();
        self.dial = None;
        self.work.shutdown().await;
        self.forwards.close(STOP_GRACE).await;
        if let Some(live) = self.session.take() {
            let _ = timeout(CLOSE_GRACE, live.session.close()).await;
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
