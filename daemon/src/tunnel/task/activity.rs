//! What a tunnel's task holds in each state of the machine: the dial, the session, the open prompt.
//!
//! Each resource exists only in the variant that needs it, so a dial beside a session, or a prompt that outlives its
//! tunnel's need for it, cannot be expressed. [`Activity::follow`] keeps the variant in step with the machine.

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tunneld_proto::status::{Phase, Prompt, SessionStatus};

use super::carrier::Carrier;
use super::open_prompt::{Answered, OpenPrompt, SessionPrompt, SharedPrompt};
use crate::failure::{Failure, FailureKind, Recovery};
use crate::prompt::PendingPrompt;
use crate::session::Session;
use crate::session::connect_limiter::ConnectPermit;
use crate::tunnel::credential_watch::{self, FileSnapshot};
use crate::tunnel::machine::State;
use crate::tunnel::registry::AnsweredPrompt;
use tunneld_config::model::Route;

/// The resources of the current state.
pub(super) enum Activity {
    /// In `Stopped`, and in `Closing`, where background work closes the session.
    Idle,
    /// In `Connecting` and `NeedsInput`: the dial.
    Dialing(Box<Dial>),
    /// In `Up`, and in `Connecting` while the new session requests its forwards.
    Live(Box<Live>),
    /// In `AwaitingAnswer`: the open prompt.
    AwaitingAnswer(AwaitedPrompt),
    /// In `Waiting`: what can end the wait early.
    Waiting {
        /// The tunnel that carried the last dial. `None` if the route uses none.
        carrier: Option<Carrier>,
        /// The files whose change ends the wait. `None` if the wait is short.
        files: Option<FileSnapshot>,
    },
    /// In `Failed`: what starts a new dial.
    Failed {
        /// The files whose change starts a new dial.
        files: FileSnapshot,
    },
}

/// A dial that is under way.
pub(super) struct Dial {
    pub(super) epoch: u64,
    pub(super) channels: DialChannels,
    /// The tunnel that carries this dial. `None` if the route uses none.
    pub(super) carrier: Option<Carrier>,
    /// The prompt that the dial waits for.
    pub(super) prompt: Option<SessionPrompt>,
    /// Prompts that the dial does not wait for.
    pub(super) background_prompts: Vec<SessionPrompt>,
    /// The answers that this dial received, to be cached if the login succeeds.
    pub(super) answers: Vec<Answered>,
    /// The prompts that the user has answered. Other tunnels that would ask the same wait until this dial ends.
    pub(super) answered_prompts: Vec<AnsweredPrompt>,
    _task: AbortOnDrop,
}

/// What a dial shares with the task.
pub(super) struct DialChannels {
    /// The slots that the dial holds. Only the task knows when the user is asked, rather than answered from the cache.
    pub(super) permit: ConnectPermit,
    pub(super) phases: mpsc::UnboundedReceiver<Phase>,
    pub(super) prompts: mpsc::Receiver<PendingPrompt>,
}

/// Aborts the dial's task when the dial is dropped.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An established session and its prompts.
pub(super) struct Live {
    pub(super) session: Session,
    pub(super) status: SessionStatus,
    /// `None` once the session cannot ask any more.
    prompts: Option<mpsc::Receiver<PendingPrompt>>,
    /// Prompts that the session works without.
    pub(super) background_prompts: Vec<SessionPrompt>,
    /// The tunnel that carries this session. `None` if the route uses none.
    carrier: Option<Carrier>,
}

/// The prompt for which a tunnel without a connection waits.
pub(super) enum AwaitedPrompt {
    /// Its own. The dial that asked is gone; the next dial will ask the same, unless the files have changed since.
    Own(OpenPrompt, FileSnapshot),
    /// Another tunnel's, for the same host.
    OtherTunnel(SharedPrompt),
}

/// What an activity reports to the task.
pub(super) enum ActivityEvent {
    /// The dial has reached a phase.
    Phase { epoch: u64, phase: Phase },
    /// The dial or the session asks the user.
    Prompt(PendingPrompt),
    /// The other tunnel's prompt is done.
    SharedPromptFinished,
    /// The carrying tunnel has a new session.
    CarrierUp,
    /// It is time to compare the watched files.
    CheckFiles,
}

impl Dial {
    pub(super) fn new(
        epoch: u64,
        task: AbortHandle,
        channels: DialChannels,
        carrier: Option<Carrier>,
    ) -> Self {
        Self {
            epoch,
            channels,
            carrier,
            prompt: None,
            background_prompts: Vec::new(),
            answers: Vec::new(),
            answered_prompts: Vec::new(),
            _task: AbortOnDrop(task),
        }
    }

    /// # Cancel safety
    /// Cancel safe.
    async fn next(&mut self) -> ActivityEvent {
        let epoch = self.epoch;
        tokio::select! {
            // In the order in which the dial sends: a phase, then its prompt.
            biased;
            Some(phase) = self.channels.phases.recv() => ActivityEvent::Phase { epoch, phase },
            Some(prompt) = self.channels.prompts.recv() => ActivityEvent::Prompt(prompt),
            // The dial has finished; its result arrives through the task's join set.
            else => std::future::pending().await,
        }
    }

    /// Turns the finished dial into its session.
    pub(super) fn into_live(self, session: Session, status: SessionStatus) -> Live {
        Live {
            session,
            status,
            prompts: Some(self.channels.prompts),
            background_prompts: self.background_prompts,
            carrier: self.carrier,
        }
    }
}

impl Live {
    /// # Cancel safety
    /// Cancel safe.
    async fn next(&mut self) -> ActivityEvent {
        if let Some(prompts) = &mut self.prompts {
            if let Some(prompt) = prompts.recv().await {
                return ActivityEvent::Prompt(prompt);
            }
            self.prompts = None;
        }
        std::future::pending().await
    }
}

impl Activity {
    /// Takes the resources, leaving `Idle`. Until the machine has handled the matching event, the caller has to put
    /// them, or their successors, back.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Idle)
    }

    /// Waits for the activity's next event. Pending for ever if the activity has none to report.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> ActivityEvent {
        match self {
            Self::Dialing(dial) => dial.next().await,
            Self::Live(live) => live.next().await,
            Self::AwaitingAnswer(AwaitedPrompt::OtherTunnel(shared)) => {
                shared.finished().await;
                ActivityEvent::SharedPromptFinished
            }
            Self::Waiting {
                carrier: Some(carrier),
                files: None,
            } => {
                carrier.new_session().await;
                ActivityEvent::CarrierUp
            }
            // A slow wait ignores the carrier: only changed credentials end it early.
            Self::Waiting { files: Some(_), .. }
            | Self::Failed { .. }
            | Self::AwaitingAnswer(AwaitedPrompt::Own(..)) => {
                sleep(credential_watch::CHECK_INTERVAL).await;
                ActivityEvent::CheckFiles
            }
            Self::Idle
            | Self::Waiting {
                carrier: None,
                files: None,
            } => std::future::pending().await,
        }
    }

    /// Drops or converts the resources so that they fit the state that the machine has entered. `route` is the one that
    /// the tunnel dials.
    ///
    /// The machine and its actions lead to each state only from activities that have what it needs: `Action::Dial`
    /// starts the dial before, and the task replaces a finished dial by its session.
    pub(super) fn follow(&mut self, state: &State, route: &Route) {
        *self = match (state, self.take()) {
            (State::Connecting { .. } | State::Up { .. }, Self::Dialing(mut dial)) => {
                dial.prompt = None;
                Self::Dialing(dial)
            }
            (State::Connecting { .. } | State::Up { .. }, live @ Self::Live(_))
            | (State::NeedsInput { .. }, live @ (Self::Dialing(_) | Self::Live(_))) => live,
            (State::AwaitingAnswer { .. }, awaiting @ Self::AwaitingAnswer(_)) => awaiting,
            // The server closed the connection. The prompt stays open without the dial.
            (State::AwaitingAnswer { .. }, Self::Dialing(dial)) => match dial.prompt {
                Some(prompt) => Self::AwaitingAnswer(AwaitedPrompt::Own(
                    prompt.open,
                    FileSnapshot::new(route, Recovery::RetrySlowly),
                )),
                None => Self::Idle,
            },
            // The snapshot is that of the failure: taken again later, it would hide changes since.
            (State::Waiting { .. }, waiting @ Self::Waiting { .. }) => waiting,
            (State::Failed { .. }, failed @ Self::Failed { .. }) => failed,
            (State::Waiting { why, .. }, before) => Self::Waiting {
                carrier: before.into_carrier(),
                files: watched_files(why, route),
            },
            (State::Failed { why }, _) => Self::Failed {
                files: FileSnapshot::new(route, why.recovery()),
            },
            (State::Stopped | State::Closing { .. }, _)
            // Not reached, see above. Without resources the tunnel waits for the user's next command.
            | (
                State::Connecting { .. }
                | State::NeedsInput { .. }
                | State::Up { .. }
                | State::AwaitingAnswer { .. },
                _,
            ) => Self::Idle,
        };
    }

    fn into_carrier(self) -> Option<Carrier> {
        match self {
            Self::Dialing(dial) => dial.carrier,
            Self::Live(live) => live.carrier,
            Self::Waiting { carrier, .. } => carrier,
            Self::Idle | Self::AwaitingAnswer(_) | Self::Failed { .. } => None,
        }
    }

    /// The established session. `None` in all other activities.
    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) => Some(live),
            _ => None,
        }
    }

    /// The prompt for which the tunnel waits: its own or another tunnel's. `None` if it waits for none.
    pub(super) fn prompt(&self) -> Option<&Prompt> {
        match self {
            Self::Dialing(dial) => dial
                .prompt
                .as_ref()
                .map(|prompt| prompt.open.guard.prompt()),
            Self::AwaitingAnswer(AwaitedPrompt::Own(open, _)) => Some(open.guard.prompt()),
            Self::AwaitingAnswer(AwaitedPrompt::OtherTunnel(shared)) => Some(&shared.prompt),
            Self::Idle | Self::Live(_) | Self::Waiting { .. } | Self::Failed { .. } => None,
        }
    }

    /// The open prompts that the dial or the session does not wait for. `None` without a dial or session.
    pub(super) fn background_prompts(&mut self) -> Option<&mut Vec<SessionPrompt>> {
        match self {
            Self::Dialing(dial) => Some(&mut dial.background_prompts),
            Self::Live(live) => Some(&mut live.background_prompts),
            _ => None,
        }
    }

    /// Whether a watched file has changed since the failure.
    pub(super) fn files_have_changed(&self) -> bool {
        match self {
            Self::Waiting {
                files: Some(files), ..
            }
            | Self::Failed { files }
            | Self::AwaitingAnswer(AwaitedPrompt::Own(_, files)) => files.has_changed(),
            _ => false,
        }
    }
}

/// The files whose change ends the wait after `why`. `None` for a failure that is retried soon anyway.
fn watched_files(why: &Failure, route: &Route) -> Option<FileSnapshot> {
    match why.recovery() {
        // The delay may have grown to a minute when the file comes back.
        Recovery::Retry if why.kind == FailureKind::Unreadable => {
            Some(FileSnapshot::new(route, Recovery::NeedsUser))
        }
        Recovery::Retry => None,
        recovery @ (Recovery::RetrySlowly | Recovery::NeedsUser) => {
            Some(FileSnapshot::new(route, recovery))
        }
    }
}
