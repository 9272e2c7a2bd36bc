//! The session of a tunnel: dialled, attached to the forwards, probed, lost, closed.

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::warn;
use tunneld_proto::status::{Phase, SessionStatus};

use super::activity::{Activity, Dial, DialChannels};
use super::carrier::{self, Carrier};
use super::{CLOSE_GRACE, PROBE_TIMEOUT, Task, WorkResult};
use crate::failure::{Failure, FailureKind};
use crate::prompt::PromptSender;
use crate::session::connect_limiter::ConnectPermit;
use crate::session::{self, DialContext, Established, Incoming, PhaseReporter, Priority, Session};
use crate::tunnel::machine::{Event, State};
use tunneld_config::model::Via;

/// How the request for the forwards of a new session ended.
enum ForwardRequestOutcome {
    /// Each forward was answered. Holds the failures.
    Answered(Vec<Failure>),
    /// A command arrived that ends this session.
    Interrupted,
    /// The session ended before all were answered.
    Lost(Failure),
}

impl Task {
    /// Carries out `Action::Dial`: starts the dial in the background.
    pub(super) fn start_dial(&mut self, epoch: u64) {
        let carrier = match &self.config.route.via {
            Via::Tunnel(name) => Some(Carrier::new(name, &self.context.registry)),
            _ => None,
        };
        let (task, channels) = self.spawn_dial(epoch);
        self.activity = Activity::Dialing(Box::new(Dial::new(epoch, task, channels, carrier)));
        self.start_refresh();
    }

    fn spawn_dial(&mut self, epoch: u64) -> (AbortHandle, DialChannels) {
        let (phase_reporter, phases) = PhaseReporter::new();
        let permit = ConnectPermit::default();
        let (prompt_sender, prompts) = PromptSender::new();
        let tunnel = self.config.name.clone();
        let route = self.config.route.clone();
        // The clients of a tunnel that was up are held until it is up again.
        let priority = match self.history.session_was_lost {
            true => Priority::Lost,
            false => Priority::Other,
        };
        let registry = self.context.registry.clone();
        let shared = self.context.dials.clone();
        let held = permit.clone();
        let task = self.work.spawn(async move {
            let result = async {
                let carrier = match &route.via {
                    Via::Tunnel(name) => Some(carrier::session_of(name, &registry)?),
                    _ => None,
                };
                let context = DialContext {
                    tunnel,
                    phases: phase_reporter,
                    prompts: prompt_sender,
                    carrier,
                    permit: held,
                    priority,
                    shared,
                };
                session::dial(&route, context).await
            };
            WorkResult::Dialled {
                epoch,
                result: Box::new(result.await),
            }
        });
        let channels = DialChannels {
            permit,
            phases,
            prompts,
        };
        (task, channels)
    }

    /// Resolves the configuration again, unless that is under way. Beside the dial, not before it: ssh_config rarely
    /// changes, and a lost session should not wait for `ssh -G`.
    fn start_refresh(&mut self) {
        if self
            .refresh
            .as_ref()
            .is_some_and(|refresh| !refresh.is_finished())
        {
            return;
        }
        let (refresh, name) = (self.context.refresh.clone(), self.config.name.clone());
        let task = self.work.spawn(async move {
            let current = refresh.refresh(&name).await;
            WorkResult::Refreshed(current.map(Box::new))
        });
        self.refresh = Some(task);
    }

    /// Carries out `Action::Close`: closes the session in the background, or aborts the dial.
    pub(super) fn start_close(&mut self, epoch: u64) {
        let session = match self.activity.take() {
            Activity::Live(live) => Some(live.session),
            // Dropping a dial aborts it.
            _ => None,
        };
        self.forwards.detach();
        self.history.session_was_lost = false;
        self.spawn_close(epoch, session);
    }

    fn spawn_close(&mut self, epoch: u64, session: Option<Session>) {
        self.work.spawn(async move {
            if let Some(session) = session {
                // A server that does not answer must not delay the next session.
                let _ = timeout(CLOSE_GRACE, session.close()).await;
            }
            WorkResult::Closed { epoch }
        });
    }

    /// Carries out `Action::Probe`: pings the server in the background.
    pub(super) fn start_probe(&mut self, epoch: u64) {
        let Some(live) = self.activity.live() else {
            return;
        };
        let session = live.session.clone();
        self.work.spawn(async move {
            match session.ping(PROBE_TIMEOUT).await {
                Ok(_) => WorkResult::ProbeSucceeded,
                Err(why) => WorkResult::SessionEnded { epoch, why },
            }
        });
    }

    /// Takes over the session of a dial that succeeded and requests its forwards. The tunnel is up once each forward
    /// was answered.
    pub(super) async fn attach(
        &mut self,
        epoch: u64,
        Established { session, incoming }: Established,
    ) {
        let dial = match self.activity.take() {
            Activity::Dialing(dial) if dial.epoch == epoch => *dial,
            // The dial was given up after it had succeeded.
            other => {
                self.activity = other;
                let _ = timeout(CLOSE_GRACE, session.close()).await;
                return;
            }
        };
        self.take_over(epoch, dial, &session);
        let failures = match self.request_forwards(&session, incoming).await {
            ForwardRequestOutcome::Answered(failures) => failures,
            ForwardRequestOutcome::Interrupted => return,
            ForwardRequestOutcome::Lost(why) => return self.on_session_lost(epoch, why),
        };
        if let Some(first) = failures
            .into_iter()
            .next()
            .filter(|_| self.config.forwarding.exit_on_failure)
        {
            // The forward's own kind must not decide how the whole tunnel recovers.
            let why = Failure {
                kind: FailureKind::Forward,
                ..first
            };
            return self.on_session_lost(epoch, why);
        }
        self.history.last_error = None;
        if std::mem::take(&mut self.history.session_was_lost) {
            self.history.reconnects += 1;
        }
        self.apply(Event::Established { epoch });
    }

    /// Replaces the dial by its session and watches for the session's end.
    fn take_over(&mut self, epoch: u64, mut dial: Dial, session: &Session) {
        self.cache_answers(std::mem::take(&mut dial.answers));
        let had_prompt = dial.prompt.take().is_some();
        self.activity = Activity::Live(Box::new(
            dial.into_live(session.clone(), status_of(session)),
        ));
        if had_prompt {
            self.apply(Event::PromptClosed { epoch });
        }
        let watched = session.clone();
        self.work.spawn(async move {
            WorkResult::SessionEnded {
                epoch,
                why: watched.closed().await,
            }
        });
        self.apply(Event::PhaseChanged {
            epoch,
            phase: Phase::Forwards,
        });
    }

    /// Requests the forwards. A server may take long to answer, so this also ends with the session, and with a command
    /// that makes the answers pointless. Commands that arrive meanwhile are handled afterwards, in their order.
    async fn request_forwards(
        &mut self,
        session: &Session,
        incoming: mpsc::Receiver<Incoming>,
    ) -> ForwardRequestOutcome {
        let request = self.forwards.attach(session.clone(), incoming);
        tokio::pin!(request);
        loop {
            tokio::select! {
                failures = &mut request => return ForwardRequestOutcome::Answered(failures),
                why = session.closed() => return ForwardRequestOutcome::Lost(why),
                command = self.commands.recv() => {
                    // `None`: the tunnel is removed. The main loop sees that again and ends the task.
                    let interrupts = command
                        .as_ref()
                        .is_none_or(|command| command.interrupts(&self.config));
                    self.deferred.extend(command);
                    if interrupts {
                        return ForwardRequestOutcome::Interrupted;
                    }
                }
            }
        }
    }

    /// Handles a failed dial, or a session that ended although nothing asked it to.
    pub(super) fn on_session_lost(&mut self, epoch: u64, why: Failure) {
        if self.machine.live_epoch() != Some(epoch) {
            return;
        }
        if let Some(live) = self.activity.live() {
            let session = live.session.clone();
            let uptime = Timestamp::now().duration_since(live.status.since);
            // Negative after a change of the clock.
            let uptime = uptime.try_into().unwrap_or_default();
            if matches!(self.machine.state(), State::Up { .. }) {
                warn!(
                    tunnel = self.config.name,
                    kind = why.kind.as_str(),
                    "the session ended: {why}"
                );
                self.history.session_was_lost = true;
                self.history.ends.record(&why.kind, uptime);
            }
            // Before the machine's new state is published, so that no client sees forwards of a lost session.
            self.forwards.detach();
            self.spawn_close(epoch, Some(session));
        }
        // A session that fails while it is being closed is no error to show.
        if !matches!(self.machine.state(), State::Closing { .. }) {
            self.history.last_error = Some((why.clone(), Timestamp::now()));
        }
        self.apply(Event::Lost { epoch, why });
    }
}

fn status_of(session: &Session) -> SessionStatus {
    let info = session.info();
    SessionStatus {
        since: Timestamp::now(),
        server: info.server.clone(),
        kex: info.kex.clone(),
        cipher: info.cipher.clone(),
        mac: info.mac.clone(),
        host_key: info.host_key.clone(),
        auth: info.auth.clone(),
        // Both are read when a client asks for the status.
        rtt_ms: None,
        offences: 0,
    }
}
