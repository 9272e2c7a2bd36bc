//! What a task tells of its tunnel: to the log and to the board.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Task;
use crate::tunnel::machine::State;
use crate::tunnel::registry::Entry;
use crate::tunnel::status::{self, TunnelSnapshot};

impl Task {
    pub(super) fn tell_log(&self) {
        let tunnel = self.spec.name.as_str();
        match self.machine.state() {
            State::Connecting { .. } => {
                info!(
                    tunnel,
                    host = status::destination(&self.spec.route),
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
            State::AwaitingAnswer { .. } => info!(
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

    pub(super) fn publish(&self) {
        let facts = TunnelSnapshot {
            spec: Arc::clone(&self.spec),
            state: self.machine.state().clone(),
            reached: (self.session.as_ref()).map(|live| live.session.info().host.clone()),
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
}
