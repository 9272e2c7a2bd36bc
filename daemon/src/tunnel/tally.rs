//! Counts a tunnel's failures and the time in which it was not up although it was to be, for the metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tunneld_proto::status::Desired;

use super::machine::State;
use super::status::TunnelSnapshot;

/// Counters since the tunnel was added.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Failed dials and lost sessions, by kind.
    pub failures: BTreeMap<String, u64>,
    /// The time of the failure that was counted last.
    counted: Option<Timestamp>,
    /// Since when the tunnel is not up although it is to be.
    down_since: Option<Instant>,
    downtime: Duration,
}

impl Tally {
    /// Takes note of what the tunnel publishes.
    pub fn observe(&mut self, snapshot: &TunnelSnapshot, now: Instant) {
        if let Some((failure, at)) = &snapshot.last_error
            && self.counted != Some(*at)
        {
            self.counted = Some(*at);
            *self
                .failures
                .entry(failure.kind.as_str().to_owned())
                .or_default() += 1;
        }
        let is_up = matches!(snapshot.state, State::Up { .. });
        let is_down = snapshot.state.desired() == Desired::Up && !is_up;
        match (is_down, self.down_since) {
            (true, None) => self.down_since = Some(now),
            (false, Some(since)) => {
                self.downtime += now.saturating_duration_since(since);
                self.down_since = None;
            }
            _ => {}
        }
    }

    /// Returns the time until `now` in which the tunnel was not up although it was to be.
    pub fn downtime(&self, now: Instant) -> Duration {
        let current = self
            .down_since
            .map(|since| now.saturating_duration_since(since));
        self.downtime + current.unwrap_or_default()
    }
}
