//! The session's round trips.

use std::time::Duration;

/// What pings have measured.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct RoundTrips {
    last: Option<Duration>,
    least: Option<Duration>,
}

impl RoundTrips {
    /// Adds one.
    pub(crate) fn add(&mut self, rtt: Duration) {
        self.last = Some(rtt);
        self.least = Some(match self.least {
            // Drifts upward slowly, so that a route that became longer is believed in the end.
            Some(least) if rtt > least => least + (rtt - least) / 64,
            _ => rtt,
        });
    }

    /// Adds what took a round trip and perhaps more, such as the opening of a channel. The more of them, the
    /// surer that one met no queue and no busy machine.
    pub(crate) fn add_bound(&mut self, took: Duration) {
        self.least = Some(self.least.map_or(took, |least| least.min(took)));
    }

    /// The last one.
    pub(crate) fn last(&self) -> Option<Duration> {
        self.last
    }

    /// About the least one: the line without queues.
    pub(crate) fn least(&self) -> Option<Duration> {
        self.least
    }
}
