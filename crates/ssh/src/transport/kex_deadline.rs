//! The time that the server may take for a key exchange.

use std::time::{Duration, Instant};

/// Slowest line that is supported, in bytes per second.
const MIN_LINE_RATE: u64 = 8 * 1024;
/// Limit of a whole key exchange, in multiples of the limit of one step.
const MAX_STEPS: u32 = 3;

/// Deadline of a key exchange.
///
/// Each step has a time limit. Data that was in flight when the key exchange began arrives first, and takes long on a
/// slow line: received bytes therefore extend the step, at the pace of [`MIN_LINE_RATE`], up to [`MAX_STEPS`] limits
/// for the whole exchange. The receive windows bound the data in flight, because no credit is sent during a key
/// exchange.
#[derive(Debug)]
pub(super) struct KexDeadline {
    /// Time limit of one step, without the extension for received bytes.
    timeout: Duration,
    started: Instant,
    step_started: Instant,
    /// Bytes received since the step started.
    received: u64,
}

impl KexDeadline {
    pub(super) fn new(now: Instant, timeout: Duration) -> Self {
        Self {
            timeout,
            started: now,
            step_started: now,
            received: 0,
        }
    }

    /// Starts the next step of the key exchange.
    pub(super) fn next_step(&mut self, now: Instant) {
        self.step_started = now;
        self.received = 0;
    }

    pub(super) fn add_received(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes as u64);
    }

    /// `None` if the deadline is beyond what the clock can represent.
    pub(super) fn deadline(&self) -> Option<Instant> {
        // Whole seconds, rounded down: a server that sends a few bytes now and then gains no time.
        let extension = Duration::from_secs(self.received / MIN_LINE_RATE);
        let step = self
            .step_started
            .checked_add(self.timeout.saturating_add(extension))?;
        let total = self
            .started
            .checked_add(self.timeout.saturating_mul(MAX_STEPS))?;
        // The total ends an exchange whose every step is extended.
        Some(step.min(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_traffic_extends_the_deadline_and_a_drip_does_not() {
        let (now, second) = (crate::transport::tests::start(), Duration::from_secs(1));
        let mut deadline = KexDeadline::new(now, 60 * second);
        for _ in 0..600 {
            deadline.add_received(10);
        }
        assert_eq!(deadline.deadline(), Some(now + 60 * second));
        deadline.add_received(1 << 20);
        assert!(deadline.deadline() > Some(now + 180 * second - second));
        deadline.add_received(1 << 30);
        assert_eq!(deadline.deadline(), Some(now + 180 * second));
        deadline.next_step(now + 30 * second);
        assert_eq!(deadline.deadline(), Some(now + 90 * second));
        deadline.next_step(now + 150 * second);
        assert_eq!(deadline.deadline(), Some(now + 180 * second));
    }
}
