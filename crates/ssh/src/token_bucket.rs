//! A token bucket: bounds how often the server may do what costs it nothing.

use std::time::Instant;

/// A budget of `capacity` tokens that refills at a constant rate.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    tokens: f64,
    capacity: f64,
    per_second: f64,
    /// Time of the last take. `None` before the first.
    last: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket of `capacity` tokens, which gains `per_second` tokens each second up to that capacity.
    pub(crate) fn new(capacity: u32, per_second: u32) -> Self {
        Self {
            tokens: f64::from(capacity),
            capacity: f64::from(capacity),
            per_second: f64::from(per_second),
            last: None,
        }
    }

    /// Adds tokens, up to the capacity.
    pub(crate) fn refund(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.capacity);
    }

    /// Takes one token. `false` if the bucket is empty.
    #[must_use]
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let last = self.last.unwrap_or(now);
        // A caller may pass an earlier time than before: the bucket then gains nothing, and does not gain the same
        // second twice.
        self.last = Some(last.max(now));
        let elapsed = now.saturating_duration_since(last);
        self.refund(elapsed.as_secs_f64() * self.per_second);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_empties_refills_with_time_and_takes_refunds() {
        let now = tokio::time::Instant::now().into_std();
        let mut bucket = TokenBucket::new(3, 2);
        assert_eq!((0..9).filter(|_| bucket.take(now)).count(), 3);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..9).filter(|_| bucket.take(later)).count(), 2);
        bucket.refund(100.0);
        assert_eq!((0..9).filter(|_| bucket.take(later)).count(), 3);
    }
}
