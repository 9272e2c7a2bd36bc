//! The actor of one tunnel: feeds the machine, carries its actions out, tells the board.

mod aside;
mod carrier;
mod prompts;
mod session;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};
use tunneld_proto::error::RpcError;
use tunneld_proto::status::{Desired, Phase, Prompt, SessionStatus};

use self::carrier::Carrier;
use self::prompts::{Behind, Waiting};
use super::gate::{Gate, Pass};
use super::machine::{Action, Event, Machine, State};
use super::recent::Recent;
use super::refresh::Refresher;
use super::remedy::{self, Causes};
use super::report::{self, Facts};
use crate::backoff::Backoff;
use crate::config::diff::{Change, diff};
use crate::config::model::{Forward, Liveness, STALE, Tunnel};
use crate::failure::{Failure, FailureKind, Verdict};
use crate::forward::{Forwards, Options};
use crate::prompt::{Asked, Question};
use crate::session::{Established, Session};
use crate::tunnel::board::{Board, Entry, Tenant};

/// How long a session may take to end in order.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// How long a probed session may take to answer.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// How long connections may go on after the daemon was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(4);

/// What a tunnel is told.
#[derive(Debug)]
pub enum Command {
    /// Come up and stay up.
    Up,
    /// Go down and stay down.
    Down,
    /// Make a new session.
    Restart,
    /// The configuration has changed.
    Replace(Box<Tunnel>),
    /// Listen no more on this side where none of these forwards does: another tunnel will.
    GiveUp {
        /// The forwards of the coming configuration.
        wanted: Vec<Forward>,
        /// Told once the addresses are free.
        done: oneshot::Sender<()>,
    },
    /// The machine's network has changed.
    NetworkChanged,
    /// The machine has woken.
    Woke,
    /// A prompt is answered; the reply says whether the answer fits.
    Answer {
        /// The prompt's id.
        id: u64,
        /// One answer a field; none to cancel.
        answers: Option<Vec<SecretString>>,
        /// Whether it fits.
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    /// End everything; the task returns.
    Stop,
}

impl Command {
    /// Whether it ends the making of a session for `spec` that is under way.
    fn interrupts(&self, spec: &Tunnel) -> bool {
        match self {
            Self::Down | Self::Restart | Self::Stop => true,
            Self::Replace(new) => diff(spec, new) == Change::Route,
            Self::Up
            | Self::NetworkChanged
            | Self::Woke
            | Self::GiveUp { .. }
            | Self::Answer { .. } => false,
        }
    }
}

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
    fresh: mpsc::UnboundedReceiver<Tunnel>,
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
}

/// What woke the loop.
enum Stir {
    Command(Option<Command>),
    Done(Result<Done, tokio::task::JoinError>),
    Phase(Phase),
    Asked(Asked),
    Fresh(Box<Tunnel>),
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
        spec: Tunnel,
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
            spec: Arc::new(spec),
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
                Stir::Fresh(fresh) => self.take(*fresh).await,
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
                        Some(fresh) = dial.fresh.recv() => Stir::Fresh(Box::new(fresh)),
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
            () = tokio::time::sleep(remedy::LOOK), if self.causes.is_some() => Stir::LookForRemedy,
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Up => {
                self.desired = Desired::Up;
                self.apply_forwards().await;
                self.step(Event::WantUp);
            }
            Command::Down => {
                self.desired = Desired::Down;
                self.facts.last_error = None;
                self.step(Event::WantDown);
                self.apply_forwards().await;
                self.publish();
            }
            Command::Restart => {
                self.desired = Desired::Up;
                self.apply_forwards().await;
                self.step(Event::Restart);
            }
            Command::Replace(spec) => self.replace(*spec).await,
            Command::GiveUp { wanted, done } => {
                self.forwards.give_up(&wanted).await;
                // Who asked may not have waited.
                let _ = done.send(());
            }
            Command::NetworkChanged => self.network_changed(),
            Command::Woke => self.step(Event::Woke),
            Command::Answer { id, answers, reply } => {
                let fits = self.answer(id, answers);
                // The one who answered may be gone already.
                let _ = reply.send(fits);
            }
            // The loop takes it before it comes here.
            Command::Stop => {}
        }
    }

    async fn replace(&mut self, spec: Tunnel) {
        let what = diff(&self.spec, &spec);
        self.spec = Arc::new(spec);
        self.machine.set_backoff(backoff(&self.spec.route.liveness));
        self.apply_forwards().await;
        if what == Change::Route {
            info!(
                tunnel = self.spec.name,
                "the destination or its login changed: connecting anew"
            );
            self.step(Event::RouteChanged);
        }
        self.publish();
    }

    /// What the dial that is under way goes by.
    async fn take(&mut self, mut fresh: Tunnel) {
        let kept = self
            .spec
            .notes
            .iter()
            .filter(|note| note.starts_with(STALE));
        fresh.notes.extend(kept.cloned());
        if *self.spec == fresh {
            return;
        }
        info!(
            tunnel = fresh.name,
            "ssh_config says something else than before"
        );
        self.spec = Arc::new(fresh);
        self.machine.set_backoff(backoff(&self.spec.route.liveness));
        self.apply_forwards().await;
        self.publish();
    }

    /// Listeners stand while the tunnel is wanted, whatever its session does.
    async fn apply_forwards(&mut self) {
        let options = Options {
            hold: self.spec.life.hold,
            forwarding: self.spec.forwarding.clone(),
        };
        match self.desired {
            Desired::Up => self.forwards.apply(&self.spec.forwards, options).await,
            Desired::Down => {
                self.forwards.declare(&self.spec.forwards).await;
                self.forwards.close(Duration::ZERO).await;
            }
        }
    }

    fn network_changed(&mut self) {
        let gone = self.session.as_ref().and_then(|live| {
            let addr = live.session.info().local_addr?;
            (!is_ours(addr)).then_some((live.epoch, addr.ip()))
        });
        match gone {
            Some((epoch, ip)) => {
                let why = Failure::new(
                    FailureKind::NetworkChanged,
                    format!("the address {ip} of the session is gone"),
                );
                self.lost(epoch, why);
            }
            None => self.step(Event::NetworkChanged),
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

    fn tell_log(&self) {
        let tunnel = self.spec.name.as_str();
        match self.machine.state() {
            State::Connecting { .. } => {
                info!(
                    tunnel,
                    host = report::destination(&self.spec.route),
                    "connecting"
                );
            }
            State::Up { .. } => info!(tunnel, "up"),
            State::Waiting { until, why, .. } => {
                let seconds = until
                    .saturating_duration_since(Instant::now())
                    .as_secs_f32();
                warn!(
                    tunnel,
                    kind = why.kind.as_str(),
                    "{why}; next attempt in {seconds:.1} s"
                );
            }
            State::NeedsInput { .. } => info!(
                tunnel,
                "waits for an answer; run: tunnelctl answer {tunnel}"
            ),
            State::Parked { .. } => info!(
                tunnel,
                "the server hung up while an answer was awaited; connecting again once there is one"
            ),
            State::Failed { why } => {
                warn!(
                    tunnel,
                    kind = why.kind.as_str(),
                    hint = why.hint.as_deref().unwrap_or(""),
                    "failed: {why}"
                );
            }
            State::Stopped => info!(tunnel, "stopped"),
            State::Closing { .. } => {}
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

    fn publish(&self) {
        let facts = Facts {
            spec: Arc::clone(&self.spec),
            state: self.machine.state().clone(),
            since: self.facts.since,
            desired: self.desired,
            last_error: self.facts.last_error.clone(),
            prompt: self.prompt().cloned(),
            session: self.session.as_ref().map(|live| live.told.clone()),
            reconnects: self.facts.reconnects,
        };
        let session = self.session.as_ref().map(|live| live.session.clone());
        self.shared.board.put(
            self.tenant,
            Entry {
                facts,
                forwards: self.forwards.monitor(),
                session,
            },
        );
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

/// Whether this machine still bears the address; what cannot be told counts as that.
fn is_ours(mut addr: SocketAddr) -> bool {
    // The scope of a link-local address stays.
    addr.set_port(0);
    UdpSocket::bind(addr)
        .err()
        .is_none_or(|error| !is_absent(&error))
}

fn is_absent(error: &io::Error) -> bool {
    #[cfg(unix)]
    if rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::NODEV) {
        return true;
    }
    error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
mod tests;
