//! Bounds on what costs the server nothing: its rekeys, its idle talk, and the time it takes for an exchange.

use std::time::{Duration, Instant};

/// A budget that refills with time.
pub(super) struct Bucket {
    tokens: f64,
    capacity: f64,
    per_second: f64,
    last: Instant,
}

impl Bucket {
    pub(super) fn new(capacity: u32, per_second: u32, now: Instant) -> Self {
        Self {
            tokens: f64::from(capacity),
            capacity: f64::from(capacity),
            per_second: f64::from(per_second),
            last: now,
        }
    }

    /// Gives back.
    pub(super) fn refund(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.capacity);
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last);
        self.last = self.last.max(now);
        self.refund(passed.as_secs_f64() * self.per_second);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// How long the server may take to finish an exchange of keys.
///
/// Each step has its time. What was under way when the exchange began comes first, and a slow line takes long for
/// it, so that traffic buys time, at the pace of the slowest line that is believed in; never more than three times
/// that of one step in all. What is under way is bounded by the windows, as no credit is given meanwhile.
#[derive(Debug)]
pub(super) struct Patience {
    timeout: Duration,
    began: Instant,
    step: Instant,
    /// What came in since the step began.
    bytes: u64,
}

/// The slowest line that is believed in, in bytes a second.
const SLOWEST: u64 = 8 * 1024;

impl Patience {
    pub(super) fn new(now: Instant, timeout: Duration) -> Self {
        Self {
            timeout,
            began: now,
            step: now,
            bytes: 0,
        }
    }

    /// The exchange went one step on.
    pub(super) fn step(&mut self, now: Instant) {
        self.step = now;
        self.bytes = 0;
    }

    /// So much came in.
    pub(super) fn extend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// When the server has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let bought = Duration::from_secs(self.bytes / SLOWEST);
        let step = self.step.checked_add(self.timeout.saturating_add(bought))?;
        let all = self.began.checked_add(self.timeout.saturating_mul(3))?;
        Some(step.min(all))
    }
}

/// When new keys are due.
#[derive(Debug, Clone, Copy)]
pub(super) struct RekeyLimits {
    pub(super) bytes: u64,
    pub(super) time: Option<Duration>,
}

/// How many packets one key may carry: the sequence number must not come round (RFC 4344 §3.1).
pub(super) const MAX_PACKETS: u64 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_buys_time_for_an_exchange_and_a_drip_does_not() {
        let (now, second) = (crate::transport::tests::start(), Duration::from_secs(1));
        let mut patience = Patience::new(now, 60 * second);
        for _ in 0..600 {
            patience.extend(10);
        }
        assert_eq!(patience.deadline(), Some(now + 60 * second));
        patience.extend(1 << 20);
        assert!(patience.deadline() > Some(now + 180 * second - second));
        patience.extend(1 << 30);
        assert_eq!(patience.deadline(), Some(now + 180 * second));
        patience.step(now + 30 * second);
        assert_eq!(patience.deadline(), Some(now + 90 * second));
        patience.step(now + 150 * second);
        assert_eq!(patience.deadline(), Some(now + 180 * second));
    }

    #[test]
    fn a_bucket_empties_and_refills() {
        let now = crate::transport::tests::start();
        let mut bucket = Bucket::new(3, 2, now);
        assert_eq!((0..9).filter(|_| bucket.take(now)).count(), 3);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..9).filter(|_| bucket.take(later)).count(), 2);
        bucket.refund(100.0);
        assert_eq!((0..9).filter(|_| bucket.take(later)).count(), 3);
    }
}
