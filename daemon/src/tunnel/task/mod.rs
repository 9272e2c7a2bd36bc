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
use self::prompts::{Behind, Waiting};
use super::answer_cache::Recent;
use super::connect_limiter::{Gate, Pass};
use super::credential_watch::{self, Causes};
use super::machine::{Action, Event, Machine, State};
use super::refresh::Refresher;
use crate::backoff::Backoff;
use crate::failure::{Failure, FailureKind, Verdict};
use crate::forward::Forwards;
use crate::prompt::{Asked, Question};
use crate::session::{Established, Session};
use crate::tunnel::registry::{Board, Tenant};
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
    pub board: Board,
    /// How many dial at once.
    pub gate: Gate,
    /// The last prompt id given out.
    pub prompts: Arc<AtomicU64>,
    /// Answers given just now. A std mutex: nothing is awaited under it.
    pub recent: Arc<Mutex<Recent>>,
    /// Where each asks, before it dials, whether it is still what it was.
    pub refresher: Refresher,
}

/// One tunnel.
pub struct Task {
    spec: Arc<Tunnel>,
    desired: Desired,
    tenant: Tenant,
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
    behind: Option<Behind>,
    /// An answer given while the tunnel was parked, for the same question of the next dial.
    answered: Option<(Question, Vec<SecretString>)>,
    /// What this dial was answered, worth keeping once it has let us in.
    given: Vec<(Question, Vec<SecretString>)>,
    /// What it stands still for, while it stands still.
    causes: Option<Causes>,
    facts: FactsKept,
}

/// A dial under way.
struct Dial {
    epoch: u64,
    abort: AbortHandle,
    phases: mpsc::UnboundedReceiver<Phase>,
    asks: mpsc::Receiver<Asked>,
    passes: mpsc::UnboundedReceiver<Pass>,
    pass: Option<Pass>,
}

/// A session that stands.
struct Live {
    epoch: u64,
    session: Session,
    told: SessionStatus,
    /// Where it asks what it can do without.
    asks: Option<mpsc::Receiver<Asked>>,
}

/// What is told and not computed.
struct FactsKept {
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
enum Stir {
    Command(Option<Command>),
    Done(Result<Done, tokio::task::JoinError>),
    Phase(Phase),
    Asked(Asked),
    Pass(Pass),
    ForwardsChanged,
    Deadline,
    LookForRemedy,
    FirstMovedOn,
    AsksNothingMore,
    CarrierStands,
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
            facts: FactsKept {
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
                Stir::Command(None) => break self.leave().await,
                Stir::Command(Some(Command::Stop)) => break,
                Stir::Command(Some(command)) => self.obey(command).await,
                Stir::Done(done) => self.done(done).await,
                Stir::Phase(phase) => self.reached(phase),
                Stir::Asked(asked) => self.ask(asked),
                Stir::Pass(pass) => {
                    if let Some(dial) = &mut self.dial {
                        dial.pass = Some(pass);
                    }
                }
                Stir::ForwardsChanged => self.publish(),
                Stir::Deadline => self.step(Event::Deadline),
                Stir::LookForRemedy => self.look_for_remedy(),
                Stir::FirstMovedOn => self.step(Event::Unparked),
                Stir::AsksNothingMore => {
                    if let Some(live) = &mut self.session {
                        live.asks = None;
                    }
                }
                Stir::CarrierStands => self.step(Event::CarrierStands),
            }
        }
        self.stop().await;
    }

    async fn stir(&mut self) -> Stir {
        if let Some(command) = self.deferred.pop_front() {
            return Stir::Command(Some(command));
        }
        let deadline = self.machine.deadline();
        let dial = &mut self.dial;
        let behind = &mut self.behind;
        let live = self.session.as_mut().and_then(|live| live.asks.as_mut());
        let waits = matches!(self.machine.state(), State::Waiting { .. });
        let carrier = self.carrier.as_mut().filter(|_| waits);
        tokio::select! {
            command = self.commands.recv() => Stir::Command(command),
            Some(done) = self.work.join_next() => Stir::Done(done),
            stir = async {
                match dial {
                    Some(dial) => tokio::select! {
                        biased;
                        Some(pass) = dial.passes.recv() => Stir::Pass(pass),
                        Some(phase) = dial.phases.recv() => Stir::Phase(phase),
                        Some(asked) = dial.asks.recv() => Stir::Asked(asked),
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
            } => Stir::FirstMovedOn,
            asked = async {
                match live {
                    Some(asks) => asks.recv().await,
                    None => std::future::pending().await,
                }
            } => match asked {
                Some(asked) => Stir::Asked(asked),
                None => Stir::AsksNothingMore,
            },
            () = async {
                match carrier {
                    Some(carrier) => carrier.stands_anew().await,
                    None => std::future::pending().await,
                }
            } => Stir::CarrierStands,
            () = self.changed.notified() => Stir::ForwardsChanged,
            () = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => Stir::Deadline,
            () = tokio::time::sleep(credential_watch::LOOK), if self.causes.is_some() => Stir::LookForRemedy,
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
        match still.filter(|verdict| *verdict != Verdict::Retry) {
            Some(verdict) => {
                self.causes
                    .get_or_insert_with(|| Causes::of(&self.spec.route, verdict));
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
            State::NeedsInput { .. } | State::Parked { .. }
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
        if self.causes.as_ref().is_some_and(Causes::have_changed) {
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
            self.step(Event::Reached { epoch, phase });
        }
    }

    /// Nobody commands it any more: it is gone as soon as its addresses are free.
    async fn leave(&mut self) {
        self.forwards.declare(&[]).await;
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
