//! Round-trip times of one session.

use std::time::Duration;

/// Round-trip measurements from pings, and upper bounds from other exchanges.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct RttEstimator {
    last: Option<Duration>,
    min: Option<Duration>,
}

impl RttEstimator {
    /// Adds a measured round trip.
    pub(super) fn add(&mut self, rtt: Duration) {
        self.last = Some(rtt);
        self.min = Some(match self.min {
            // The minimum drifts upward slowly, so that it follows a route that became longer.
            Some(min) if rtt > min => min + (rtt - min) / 64,
            _ => rtt,
        });
    }

    /// Adds the duration of an exchange that took a round trip or more, such as opening a channel. Lowers the minimum
    /// only: the more samples there are, the likelier one of them met no queue and no busy server.
    pub(super) fn add_upper_bound(&mut self, took: Duration) {
        // `last` stays: it is shown to the user, and an upper bound would look like a bad line.
        self.min = Some(self.min.map_or(took, |min| min.min(took)));
    }

    /// The last measured round trip. `None` before the first.
    pub(super) fn last(&self) -> Option<Duration> {
        self.last
    }

    /// About the smallest round trip: the line without queues. `None` before the first sample.
    pub(super) fn min(&self) -> Option<Duration> {
        self.min
    }
}
