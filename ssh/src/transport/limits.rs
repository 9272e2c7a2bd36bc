//! Bounds on what costs the server nothing: its rekeys and its idle talk.

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
