//! What the task reports about its tunnel: log lines for changes of state, and the entry in the status registry.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Task;
use super::activity::{Activity, AwaitedPrompt};
use crate::tunnel::machine::State;
use crate::tunnel::registry::Entry;
use crate::tunnel::status::{self, TunnelSnapshot};

impl Task {
    pub(super) fn log_state(&self) {
        let tunnel = self.config.name.as_str();
        match self.machine.state() {
            State::Connecting { .. } => {
                info!(
                    tunnel,
                    host = status::destination(&self.config.route),
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
                "waiting for an answer; run: tunnelctl answer {tunnel}"
            ),
            State::AwaitingAnswer { .. } => self.log_awaiting_answer(),
            State::Failed { why } => {
                warn!(
                    tunnel,
                    kind = why.kind.as_str(),
                    hint = why.hint.as_deref().unwrap_or(""),
                    "failed: {why}"
                );
            }
            State::Stopped => info!(tunnel, "stopped"),
            // A state of at most `CLOSE_GRACE`; what follows is logged.
            State::Closing { .. } => {}
        }
    }

    fn log_awaiting_answer(&self) {
        let tunnel = self.config.name.as_str();
        match &self.activity {
            Activity::AwaitingAnswer(AwaitedPrompt::OtherTunnel(shared)) => {
                let other = shared.prompt.tunnel.as_str();
                info!(
                    tunnel,
                    "waiting for the answer to the prompt of {other}, which logs in to the same host; \
                     run: tunnelctl answer {other}"
                );
            }
            _ => info!(
                tunnel,
                "the server closed the connection while the prompt was open; connecting again after the answer"
            ),
        }
    }

    /// Publishes the current state. Cheap if nothing has changed: the registry sends an event only for a new status.
    pub(super) fn publish(&self) {
        let failed = matches!(self.machine.state(), State::Failed { .. });
        self.forwards.expect_session(!failed);
        let live = self.activity.live();
        let snapshot = TunnelSnapshot {
            config: Arc::clone(&self.config),
            state: self.machine.state().clone(),
            since: self.history.since,
            reached_host: live.map(|live| live.session.info().host.clone()),
            last_error: self.history.last_error.clone(),
            prompt: self.activity.prompt().cloned(),
            session: live.map(|live| live.status.clone()),
            reconnects: self.history.reconnects,
            note: self.history.ends.note(),
        };
        let now = (Timestamp::now(), Instant::now());
        self.forwards.set_summary(status::summary(&snapshot, now));
        self.context.registry.publish(
            self.lease,
            Entry {
                snapshot,
                forwards: self.forwards.monitor(),
                session: live.map(|live| live.session.clone()),
            },
        );
    }
}
