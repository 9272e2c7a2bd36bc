//! The state machine of one tunnel: events lead from one state to the next and return what the task has to do.
//!
//! Pure: the caller passes the time and the jitter, and carries the actions out (`tunnel::task`).

mod event;
mod state;

use std::time::Duration;

use tokio::time::Instant;
use tunneld_proto::status::Phase;

pub use self::event::{Action, Event};
pub use self::state::{AfterClose, Attempts, State};
use crate::backoff::Backoff;
use crate::failure::{Failure, FailureKind, Recovery};

/// A session that was up this long proves that the server and the login work: failures before it no longer count.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// A session that was up this long is replaced at once when it is lost, even if failures preceded it. Sessions that
/// keep ending sooner than this back off.
const IMMEDIATE_RETRY_AFTER: Duration = Duration::from_secs(2);

/// The machine of one tunnel.
#[derive(Debug, Clone)]
pub struct Machine {
    state: State,
    /// The epoch of the newest session, 0 before the first.
    epoch: u64,
    backoff: Backoff,
}

impl Machine {
    /// Creates the machine of a stopped tunnel.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            state: State::Stopped,
            epoch: 0,
            backoff,
        }
    }

    /// The state after the last handled event.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When the caller has to send `Event::Deadline`. `None` if the state has no time limit.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Changes the delays after future failures. A wait that has begun keeps its length.
    pub fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    /// The session that is being established, is up, or is being closed. `None` if there is no such session.
    pub fn live_epoch(&self) -> Option<u64> {
        match &self.state {
            State::Connecting { epoch, .. }
            | State::NeedsInput { epoch, .. }
            | State::Up { epoch, .. }
            | State::Closing { epoch, .. } => Some(*epoch),
            State::Stopped
            | State::Waiting { .. }
            | State::AwaitingAnswer { .. }
            | State::Failed { .. } => None,
        }
    }

    /// Handles an event and returns what the task has to do, if anything. `jitter`, from 0 to 1, varies the delay
    /// before the next dial.
    pub fn handle(&mut self, now: Instant, jitter: f64, event: Event) -> Option<Action> {
        // Background work of an earlier session may report late. This is the only place that checks for it: no
        // handler below sees an event of another session.
        if event
            .epoch()
            .is_some_and(|epoch| self.live_epoch() != Some(epoch))
        {
            return None;
        }
        match event {
            Event::WantUp => self.want_up(),
            Event::WantDown => self.close(AfterClose::Stop),
            Event::Restart => self.close(AfterClose::Connect),
            Event::RouteChanged => self.route_changed(),
            Event::NetworkChanged | Event::Woke => self.on_network_change(now),
            Event::CarrierUp => self.carrier_up(),
            Event::FilesChanged => match self.state {
                // With the new key, the login may need no answer.
                State::AwaitingAnswer { attempts, .. } => self.dial(attempts),
                _ => self.want_up(),
            },
            Event::PhaseChanged { phase, .. } => self.phase_changed(phase),
            Event::PromptOpened { prompt, .. } => self.prompt_opened(prompt),
            Event::PromptClosed { .. } => self.prompt_closed(),
            Event::PromptBlocked { prompt, .. } => self.prompt_blocked(prompt),
            Event::AnswerReady => match self.state {
                State::AwaitingAnswer { attempts, .. } => self.dial(attempts),
                _ => None,
            },
            Event::PromptCancelled { why } => {
                if matches!(self.state, State::AwaitingAnswer { .. }) {
                    self.state = State::Failed { why };
                }
                None
            }
            Event::Established { .. } => self.established(now),
            Event::Lost { why, .. } => self.lost(now, jitter, why),
            Event::Closed { .. } => self.closed(),
            Event::Deadline => match self.state {
                State::Waiting {
                    attempts, until, ..
                } if now >= until => self.dial(attempts),
                _ => None,
            },
        }
    }

    fn dial(&mut self, attempts: Attempts) -> Option<Action> {
        self.epoch += 1;
        let epoch = self.epoch;
        self.state = State::Connecting {
            epoch,
            attempts,
            phase: Phase::Resolve,
        };
        Some(Action::Dial { epoch })
    }

    fn want_up(&mut self) -> Option<Action> {
        match &mut self.state {
            State::Stopped | State::Failed { .. } => self.dial(Attempts::default()),
            // The failures still count: after another one the delay continues to grow, however often the user says
            // `up`.
            State::Waiting { attempts, .. } => {
                let attempts = *attempts;
                self.dial(attempts)
            }
            State::Closing { then, .. } => {
                *then = AfterClose::Connect;
                None
            }
            State::Connecting { .. }
            | State::NeedsInput { .. }
            | State::AwaitingAnswer { .. }
            | State::Up { .. } => None,
        }
    }

    /// Closes the session or dial, if there is one, and continues with `next`.
    fn close(&mut self, next: AfterClose) -> Option<Action> {
        match &mut self.state {
            State::Closing { then, .. } => {
                *then = next;
                None
            }
            State::Connecting { epoch, .. }
            | State::NeedsInput { epoch, .. }
            | State::Up { epoch, .. } => {
                let epoch = *epoch;
                self.state = State::Closing { epoch, then: next };
                Some(Action::Close { epoch })
            }
            State::Stopped
            | State::Waiting { .. }
            | State::AwaitingAnswer { .. }
            | State::Failed { .. } => match next {
                AfterClose::Stop => {
                    self.state = State::Stopped;
                    None
                }
                AfterClose::Connect => self.dial(Attempts::default()),
            },
        }
    }

    fn route_changed(&mut self) -> Option<Action> {
        match self.state {
            // A changed configuration does not start a stopped tunnel. What is closing dials the new route anyway,
            // if it dials at all.
            State::Stopped | State::Closing { .. } => None,
            _ => self.close(AfterClose::Connect),
        }
    }

    fn on_network_change(&mut self, now: Instant) -> Option<Action> {
        match &mut self.state {
            State::Up { epoch, .. } => Some(Action::Probe { epoch: *epoch }),
            // Only for failures that a new network can cure. An early retry after a refused login could lock the
            // account.
            State::Waiting { until, why, .. } if why.recovery() == Recovery::Retry => {
                *until = (*until).min(now);
                None
            }
            _ => None,
        }
    }

    fn carrier_up(&mut self) -> Option<Action> {
        match &self.state {
            // As for a changed network: a refused login still waits.
            State::Waiting { why, attempts, .. } if why.recovery() == Recovery::Retry => {
                self.dial(*attempts)
            }
            _ => None,
        }
    }

    fn phase_changed(&mut self, new: Phase) -> Option<Action> {
        if let State::Connecting { phase, .. } | State::NeedsInput { phase, .. } = &mut self.state {
            *phase = new;
        }
        None
    }

    fn prompt_opened(&mut self, prompt: u64) -> Option<Action> {
        if let State::Connecting {
            epoch,
            attempts,
            phase,
        }
        | State::NeedsInput {
            epoch,
            attempts,
            phase,
            ..
        } = self.state
        {
            self.state = State::NeedsInput {
                epoch,
                attempts,
                phase,
                prompt,
            };
        }
        None
    }

    fn prompt_closed(&mut self) -> Option<Action> {
        if let State::NeedsInput {
            epoch,
            attempts,
            phase,
            ..
        } = self.state
        {
            self.state = State::Connecting {
                epoch,
                attempts,
                phase,
            };
        }
        None
    }

    fn prompt_blocked(&mut self, prompt: u64) -> Option<Action> {
        if let State::Connecting { attempts, .. } | State::NeedsInput { attempts, .. } = self.state
        {
            self.state = State::AwaitingAnswer { attempts, prompt };
        }
        None
    }

    fn established(&mut self, now: Instant) -> Option<Action> {
        if let State::Connecting {
            epoch, attempts, ..
        }
        | State::NeedsInput {
            epoch, attempts, ..
        } = self.state
        {
            self.state = State::Up {
                epoch,
                // The login worked, so refused ones no longer count. Other failures count until `STABLE_AFTER`,
                // because a server can accept a login and then drop the session every time.
                attempts: Attempts {
                    refusals: 0,
                    ..attempts
                },
                since: now,
            };
        }
        None
    }

    fn lost(&mut self, now: Instant, jitter: f64, why: Failure) -> Option<Action> {
        // `uptime` is `None` if the session never came up.
        let (mut attempts, uptime) = match self.state {
            State::Up {
                attempts, since, ..
            } => (attempts, Some(now.saturating_duration_since(since))),
            // The server did not wait for the user. Dialling now would only ask the same question again; so this
            // counts as no failure, and the dial waits for the answer.
            State::NeedsInput {
                attempts, prompt, ..
            } if why.recovery() == Recovery::Retry && why.kind != FailureKind::Unreadable => {
                // `Unreadable`: the dial gave up its prompt, because it can do without the answer now.
                self.state = State::AwaitingAnswer { attempts, prompt };
                return None;
            }
            State::Connecting { attempts, .. } | State::NeedsInput { attempts, .. } => {
                (attempts, None)
            }
            State::Closing { .. } => return self.closed(),
            State::Stopped
            | State::Waiting { .. }
            | State::AwaitingAnswer { .. }
            | State::Failed { .. } => return None,
        };
        if uptime.is_some_and(|uptime| uptime >= STABLE_AFTER) {
            attempts = Attempts::default();
        }
        self.recover(now, jitter, why, attempts, uptime)
    }

    /// Retries after `why`, at once or later, or fails. `attempts` are the failures before this one.
    fn recover(
        &mut self,
        now: Instant,
        jitter: f64,
        why: Failure,
        mut attempts: Attempts,
        uptime: Option<Duration>,
    ) -> Option<Action> {
        let first_failure = attempts.failures == 0;
        attempts.failures = attempts.failures.saturating_add(1);
        let delay = match why.recovery() {
            Recovery::NeedsUser => {
                self.state = State::Failed { why };
                return None;
            }
            Recovery::RetrySlowly => {
                attempts.refusals = attempts.refusals.saturating_add(1);
                Backoff::after_refusal(attempts.refusals, jitter)
            }
            // A session that worked was cut. New connections are held until the next one is up, so dial at once.
            Recovery::Retry
                if uptime
                    .is_some_and(|uptime| first_failure || uptime >= IMMEDIATE_RETRY_AFTER) =>
            {
                return self.dial(attempts);
            }
            Recovery::Retry => self.backoff.delay(attempts.failures, jitter),
        };
        self.state = State::Waiting {
            attempts,
            until: now + delay,
            why,
        };
        None
    }

    fn closed(&mut self) -> Option<Action> {
        match self.state {
            State::Closing {
                then: AfterClose::Connect,
                ..
            } => self.dial(Attempts::default()),
            _ => {
                self.state = State::Stopped;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
