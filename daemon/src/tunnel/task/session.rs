//! The session of a tunnel: dialled, kept, probed, lost, closed.

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;
use tunneld_proto::status::{Phase, SessionStatus};

use super::carrier::{self, Carrier};
use super::{CLOSE_GRACE, Dial, Done, Live, PROBE_DEADLINE, Task};
use crate::failure::{Failure, FailureKind};
use crate::prompt::{PendingPrompt, PromptSender};
use crate::session::{self, DialContext, Established, Incoming, Session};
use crate::tunnel::machine::{Event, State};
use tunneld_config::model::Via;

/// What became of asking for the forwards.
pub(super) enum Asking {
    Done(Vec<Failure>),
    Interrupted,
    Lost(Failure),
}

impl Task {
    pub(super) fn start_dial(&mut self, epoch: u64) {
        self.given.clear();
        let (phases, phases_end) = mpsc::unbounded_channel();
        let (passes, passes_end) = mpsc::unbounded_channel();
        let (asker, asks) = PromptSender::new();
        let route = self.spec.route.clone();
        let gate = self.shared.gate.clone();
        let board = self.shared.board.clone();
        self.carrier = match &route.via {
            Via::Tunnel(name) => Some(Carrier::new(name, &board)),
            _ => None,
        };
        let tunnel = self.spec.name.clone();
        let abort = self.work.spawn(async move {
            let result = async {
                let carrier = match &route.via {
                    Via::Tunnel(name) => Some(carrier::session_of(name, &board)?),
                    _ => None,
                };
                let pass = gate
                    .pass(&route)
                    .await
                    .ok_or_else(|| Failure::new(FailureKind::Internal, "the gate is closed"))?;
                // The task holds it: it knows when a person is being waited for.
                let _ = passes.send(pass);
                session::dial(
                    &route,
                    DialContext {
                        tunnel,
                        phases,
                        asker,
                        carrier,
                    },
                )
                .await
            };
            Done::Dialled {
                epoch,
                result: Box::new(result.await),
            }
        });
        self.dial = Some(Dial {
            epoch,
            abort,
            phases: phases_end,
            asks,
            passes: passes_end,
            pass: None,
        });
        self.refresh();
    }

    /// Asks, beside the dial, whether ssh_config still says what it said. It does nearly always: a lost session is not
    /// to wait for that.
    fn refresh(&mut self) {
        if std::mem::replace(&mut self.refreshing, true) {
            return;
        }
        let (refresher, name) = (self.shared.refresher.clone(), self.spec.name.clone());
        self.work.spawn(async move {
            let fresh = refresher.ask(&name).await;
            Done::Refreshed(fresh.map(Box::new))
        });
    }

    pub(super) fn start_close(&mut self, epoch: u64) {
        if let Some(dial) = self.dial.take_if(|dial| dial.epoch == epoch) {
            dial.abort.abort();
        }
        let live = self.session.take_if(|live| live.epoch == epoch);
        self.drop_asides();
        self.forwards.detach();
        self.facts.was_lost = false;
        self.work.spawn(async move {
            if let Some(live) = live {
                // A peer that does not listen is left to its own timers.
                let _ = timeout(CLOSE_GRACE, live.session.close()).await;
            }
            Done::Closed { epoch }
        });
    }

    pub(super) fn start_probe(&mut self, epoch: u64) {
        let Some(live) = self.session.as_ref().filter(|live| live.epoch == epoch) else {
            return;
        };
        let session = live.session.clone();
        self.work.spawn(async move {
            match session.ping(PROBE_DEADLINE).await {
                Ok(_) => Done::ProbeOk,
                Err(why) => Done::Ended { epoch, why },
            }
        });
    }

    /// The session stands: asks for the forwards, then is up.
    pub(super) async fn attach(
        &mut self,
        epoch: u64,
        Established { session, incoming }: Established,
    ) {
        if self.machine.live_epoch() != Some(epoch)
            || matches!(self.machine.state(), State::Closing { .. })
        {
            let _ = timeout(CLOSE_GRACE, session.close()).await;
            return;
        }
        self.keep_answers();
        let asks = self.dial.take().map(|dial| dial.asks);
        self.keep(epoch, &session, asks);
        self.step(Event::PhaseChanged {
            epoch,
            phase: Phase::Forwards,
        });
        let failures = match self.ask_forwards(&session, incoming).await {
            Asking::Done(failures) => failures,
            Asking::Interrupted => return,
            Asking::Lost(why) => return self.lost(epoch, why),
        };
        if let Some(first) = failures
            .into_iter()
            .next()
            .filter(|_| self.spec.forwarding.exit_on_failure)
        {
            let why = Failure {
                kind: FailureKind::Forward,
                ..first
            };
            return self.lost(epoch, why);
        }
        self.facts.last_error = None;
        if std::mem::take(&mut self.facts.was_lost) {
            self.facts.reconnects += 1;
        }
        self.step(Event::Established { epoch });
    }

    pub(super) fn keep(
        &mut self,
        epoch: u64,
        session: &Session,
        asks: Option<mpsc::Receiver<PendingPrompt>>,
    ) {
        let info = session.info();
        let told = SessionStatus {
            since: Timestamp::now(),
            server: info.server.clone(),
            kex: info.kex.clone(),
            cipher: info.cipher.clone(),
            mac: info.mac.clone(),
            host_key: info.host_key.clone(),
            auth: info.auth.clone(),
            rtt_ms: None,
            offences: 0,
        };
        self.session = Some(Live {
            epoch,
            session: session.clone(),
            told,
            asks,
        });
        let watched = session.clone();
        self.work.spawn(async move {
            Done::Ended {
                epoch,
                why: watched.closed().await,
            }
        });
    }

    pub(super) async fn ask_forwards(
        &mut self,
        session: &Session,
        incoming: mpsc::Receiver<Incoming>,
    ) -> Asking {
        let asking = self.forwards.attach(session.clone(), incoming);
        tokio::pin!(asking);
        loop {
            tokio::select! {
                failures = &mut asking => return Asking::Done(failures),
                why = session.closed() => return Asking::Lost(why),
                command = self.commands.recv() => {
                    // Nobody is left to command it: the loop sees to that.
                    let interrupts = command
                        .as_ref()
                        .is_none_or(|command| command.interrupts(&self.spec));
                    self.deferred.extend(command);
                    if interrupts {
                        return Asking::Interrupted;
                    }
                }
            }
        }
    }

    /// The dial failed, or the session ended unasked.
    pub(super) fn lost(&mut self, epoch: u64, why: Failure) {
        if self.machine.live_epoch() != Some(epoch) {
            return;
        }
        if let Some(live) = self.session.take_if(|live| live.epoch == epoch) {
            if matches!(self.machine.state(), State::Up { .. }) {
                warn!(
                    tunnel = self.spec.name,
                    kind = why.kind.as_str(),
                    "the session ended: {why}"
                );
                self.facts.was_lost = true;
            }
            self.drop_asides();
            self.forwards.detach();
            self.work.spawn(async move {
                let _ = timeout(CLOSE_GRACE, live.session.close()).await;
                Done::Closed { epoch }
            });
        }
        self.dial = self.dial.take().filter(|dial| dial.epoch != epoch);
        if !matches!(self.machine.state(), State::Closing { .. }) {
            self.facts.last_error = Some((why.clone(), Timestamp::now()));
        }
        self.step(Event::Lost { epoch, why });
        if let (State::AwaitingAnswer { .. }, Some(waiting)) =
            (self.machine.state(), &mut self.asked)
        {
            waiting.answer = None;
        }
    }
}
