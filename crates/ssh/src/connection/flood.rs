//! Counting what a peer does too often.

use std::time::{Duration, Instant};

/// Allows so many events in a stretch of time.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: u32,
    stretch: Duration,
    since: Option<Instant>,
    count: u32,
}

impl Meter {
    /// At most `limit` events in each `stretch`.
    pub(crate) fn new(limit: u32, stretch: Duration) -> Self {
        Self {
            limit,
            stretch,
            since: None,
            count: 0,
        }
    }

    /// Counts one; `false` where it is one too many.
    #[must_use]
    pub(crate) fn count(&mut self, now: Instant) -> bool {
        match self.since {
            Some(since) if now.saturating_duration_since(since) < self.stretch => self.count += 1,
            _ => {
                self.since = Some(now);
                self.count = 1;
            }
        }
        self.count <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_per_stretch() {
        let mut meter = Meter::new(2, Duration::from_secs(1));
        let now = tokio::time::Instant::now().into_std();
        assert!(meter.count(now));
        assert!(meter.count(now));
        assert!(!meter.count(now));
        assert!(meter.count(now + Duration::from_secs(1)));
    }
}
