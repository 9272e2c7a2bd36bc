//! The states of a tunnel and what leads from one to the next. Pure: time and jitter are given.
//!
//! `degraded` is no state: it is computed from `Up` and the forwards.

use std::time::Duration;

use tokio::time::Instant;
use tunneld_proto::status::Phase;

use crate::backoff::Backoff;
use crate::failure::{Failure, FailureKind, Recovery};

/// A session that stood so long starts the count of failures anew.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// A session that stood so long is followed by an attempt at once, whatever came before it.
const IMMEDIATE_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Where a tunnel is in its life. Each state carries what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Not wanted.
    Stopped,
    /// A session is being made.
    Connecting {
        /// Which session.
        epoch: u64,
        /// The failures before it.
        tries: Attempts,
        /// What it is at.
        phase: Phase,
    },
    /// A session is being made, and waits for a person.
    NeedsInput {
        /// Which session.
        epoch: u64,
        /// The failures before it.
        tries: Attempts,
        /// What it was at.
        phase: Phase,
        /// The prompt's id.
        prompt: u64,
    },
    /// A session stands.
    Up {
        /// Which session.
        epoch: u64,
        /// The failures before it.
        tries: Attempts,
        /// Since when.
        since: Instant,
    },
    /// Tries again.
    Waiting {
        /// The failures so far.
        tries: Attempts,
        /// When.
        until: Instant,
        /// What failed.
        why: Failure,
    },
    /// A session is being ended.
    Closing {
        /// Which session.
        epoch: u64,
        /// What comes after.
        then: AfterClose,
    },
    /// The server hung up while a person was being asked: dialled again once there is an answer.
    AwaitingAnswer {
        /// The failures so far.
        tries: Attempts,
        /// The prompt's id.
        prompt: u64,
    },
    /// Stands still until a person acts.
    Failed {
        /// What failed.
        why: Failure,
    },
}

/// What follows a closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterClose {
    /// Nothing.
    Stop,
    /// A new session.
    Connect,
}

/// Failures in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    /// Of any kind.
    pub failures: u32,
    /// Refused logins among them.
    pub refusals: u32,
}

/// What happens to a tunnel. Words about a session bear its epoch.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The user wants it up; a wait is cut short.
    WantUp,
    /// The user wants it down.
    WantDown,
    /// The user wants a new session.
    Restart,
    /// What it takes to make a session has changed.
    RouteChanged,
    /// The machine's addresses or routes changed.
    NetworkChanged,
    /// The machine woke from sleep.
    Woke,
    /// The tunnel whose session carries this one has a new one.
    CarrierUp,
    /// The dial goes on to another phase.
    PhaseChanged {
        /// Which session.
        epoch: u64,
        /// Which phase.
        phase: Phase,
    },
    /// The dial asks a person.
    PendingPrompt {
        /// Which session.
        epoch: u64,
        /// The prompt's id.
        prompt: u64,
    },
    /// The person answered, or the prompt is gone.
    Answered {
        /// Which session.
        epoch: u64,
    },
    /// There is an answer to the prompt of a parked tunnel.
    AnswerReady,
    /// The prompt of a parked tunnel was cancelled.
    Cancelled {
        /// What that amounts to.
        why: Failure,
    },
    /// The session stands.
    Established {
        /// Which session.
        epoch: u64,
    },
    /// The dial failed, or the session ended unasked.
    Lost {
        /// Which session.
        epoch: u64,
        /// Why.
        why: Failure,
    },
    /// The session has ended as asked.
    Closed {
        /// Which session.
        epoch: u64,
    },
    /// `deadline()` has passed.
    Deadline,
}

impl Event {
    /// The session it is about, where it is about one.
    fn epoch(&self) -> Option<u64> {
        match self {
            Self::PhaseChanged { epoch, .. }
            | Self::PendingPrompt { epoch, .. }
            | Self::Answered { epoch }
            | Self::Established { epoch }
            | Self::Lost { epoch, .. }
            | Self::Closed { epoch } => Some(*epoch),
            _ => None,
        }
    }
}

/// What the task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make a session.
    Dial {
        /// Which.
        epoch: u64,
    },
    /// End the session or the dial, then say `Closed`.
    Close {
        /// Which.
        epoch: u64,
    },
    /// Ask the session for a sign of life within a short deadline.
    Probe {
        /// Which.
        epoch: u64,
    },
}

/// The machine of one tunnel.
#[derive(Debug, Clone)]
pub struct Machine {
    state: State,
    /// The last epoch given out.
    epoch: u64,
    backoff: Backoff,
}

impl Machine {
    /// A stopped tunnel.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            state: State::Stopped,
            epoch: 0,
            backoff,
        }
    }

    /// The state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When `Event::Deadline` is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Changes the delays of coming failures.
    pub fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    /// The session that is being made, stands, or is being ended.
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

    /// Takes an event in; says what is to be done. `jitter` in 0..1.
    pub fn on(&mut self, now: Instant, jitter: f64, event: Event) -> Option<Action> {
        // The one place where another session's word is dropped.
        if event
            .epoch()
            .is_some_and(|epoch| self.live_epoch() != Some(epoch))
        {
            return None;
        }
        match event {
            Event::WantUp => self.want_up(),
            Event::WantDown => self.end(AfterClose::Stop),
            Event::Restart => self.end(AfterClose::Connect),
            Event::RouteChanged => match self.state {
                State::Stopped => None,
                _ => self.end_unless_stopping(),
            },
            Event::NetworkChanged | Event::Woke => self.stirred(now),
            Event::CarrierUp => match &self.state {
                State::Waiting { why, tries, .. } if why.verdict() == Recovery::Retry => {
                    self.dial(*tries)
                }
                _ => None,
            },
            Event::PhaseChanged { phase, .. } => self.reached(phase),
            Event::PendingPrompt { prompt, .. } => self.asked(prompt),
            Event::Answered { .. } => self.answered(),
            Event::AnswerReady => match self.state {
                State::AwaitingAnswer { tries, .. } => self.dial(tries),
                _ => None,
            },
            Event::Cancelled { why } => {
                if matches!(self.state, State::AwaitingAnswer { .. }) {
                    self.state = State::Failed { why };
                }
                None
            }
            Event::Established { .. } => self.established(now),
            Event::Lost { why, .. } => self.lost(now, jitter, why),
            Event::Closed { .. } => self.closed(),
            Event::Deadline => match self.state {
                State::Waiting { tries, until, .. } if now >= until => self.dial(tries),
                _ => None,
            },
        }
    }

    fn dial(&mut self, tries: Attempts) -> Option<Action> {
        self.epoch += 1;
        let epoch = self.epoch;
        self.state = State::Connecting {
            epoch,
            tries,
            phase: Phase::Resolve,
        };
        Some(Action::Dial { epoch })
    }

    fn want_up(&mut self) -> Option<Action> {
        match &mut self.state {
            State::Stopped | State::Failed { .. } => self.dial(Attempts::default()),
            State::Waiting { tries, .. } => {
                let tries = *tries;
                self.dial(tries)
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

    fn end(&mut self, next: AfterClose) -> Option<Action> {
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

    fn end_unless_stopping(&mut self) -> Option<Action> {
        match self.state {
            State::Closing { .. } => None,
            _ => self.end(AfterClose::Connect),
        }
    }

    fn stirred(&mut self, now: Instant) -> Option<Action> {
        match &mut self.state {
            State::Up { epoch, .. } => Some(Action::Probe { epoch: *epoch }),
            // A refused login is not cured by another network; hurrying it would only lock the account.
            State::Waiting { until, why, .. } if why.verdict() == Recovery::Retry => {
                *until = (*until).min(now);
                None
            }
            _ => None,
        }
    }

    fn reached(&mut self, new: Phase) -> Option<Action> {
        if let State::Connecting { phase, .. } | State::NeedsInput { phase, .. } = &mut self.state {
            *phase = new;
        }
        None
    }

    fn asked(&mut self, prompt: u64) -> Option<Action> {
        if let State::Connecting {
            epoch,
            tries,
            phase,
        }
        | State::NeedsInput {
            epoch,
            tries,
            phase,
            ..
        } = self.state
        {
            self.state = State::NeedsInput {
                epoch,
                tries,
                phase,
                prompt,
            };
        }
        None
    }

    fn answered(&mut self) -> Option<Action> {
        if let State::NeedsInput {
            epoch,
            tries,
            phase,
            ..
        } = self.state
        {
            self.state = State::Connecting {
                epoch,
                tries,
                phase,
            };
        }
        None
    }

    fn established(&mut self, now: Instant) -> Option<Action> {
        if let State::Connecting { epoch, tries, .. } | State::NeedsInput { epoch, tries, .. } =
            self.state
        {
            self.state = State::Up {
                epoch,
                tries: Attempts {
                    refusals: 0,
                    ..tries
                },
                since: now,
            };
        }
        None
    }

    fn lost(&mut self, now: Instant, jitter: f64, why: Failure) -> Option<Action> {
        let (mut tries, stood) = match self.state {
            State::Up { tries, since, .. } => (tries, Some(now.saturating_duration_since(since))),
            State::NeedsInput { tries, prompt, .. } if why.verdict() == Recovery::Retry => {
                self.state = State::AwaitingAnswer { tries, prompt };
                return None;
            }
            State::Connecting { tries, .. } | State::NeedsInput { tries, .. } => (tries, None),
            State::Closing { .. } => return self.closed(),
            _ => return None,
        };
        if stood.is_some_and(|stood| stood >= STABLE_AFTER) {
            tries = Attempts::default();
        }
        let first = tries.failures == 0;
        tries.failures = tries.failures.saturating_add(1);
        let delay = match why.verdict() {
            Recovery::NeedsUser => {
                self.state = State::Failed { why };
                return None;
            }
            Recovery::RetrySlowly => {
                tries.refusals = tries.refusals.saturating_add(1);
                Backoff::after_refusal(tries.refusals, jitter)
            }
            Recovery::Retry
                if stood.is_some_and(|stood| first || stood >= IMMEDIATE_RETRY_AFTER) =>
            {
                return self.dial(tries);
            }
            // Its own deadline was wait enough: waiting longer would only miss the network's return.
            Recovery::Retry if why.kind == FailureKind::Timeout => self.backoff.delay(1, jitter),
            Recovery::Retry => self.backoff.delay(tries.failures, jitter),
        };
        self.state = State::Waiting {
            tries,
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
