//! How long to wait before the next attempt. Pure: the jitter is given.

use std::time::Duration;

/// The first and the longest delay after refused logins, which lock accounts.
const REFUSED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// The delays of one tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// Never longer.
    pub max: Duration,
}

impl Backoff {
    /// The delay after the `failures`th failure in a row (from 1); `jitter` in 0..1 takes up to half of it away.
    pub fn delay(self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = self.initial.saturating_mul(1 << doublings).min(self.max);
        full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// The delay after the `refusals`th refused login in a row: 30 s to 10 min.
    pub fn after_refusal(refusals: u32, jitter: f64) -> Duration {
        let (initial, max) = REFUSED;
        // Jitter only lengthens here: the first 30 s are a promise to the server.
        let full = initial
            .saturating_mul(1 << refusals.saturating_sub(1).min(20))
            .min(max);
        full.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_within_its_bounds(failures in 0u32.., jitter in 0.0f64..1.0) {
            let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60) };
            let delay = backoff.delay(failures, jitter);
            prop_assert!(delay >= Duration::from_millis(500) && delay <= Duration::from_secs(60));
            let refused = Backoff::after_refusal(failures, jitter);
            prop_assert!(refused >= Duration::from_secs(30) && refused <= Duration::from_secs(660));
        }
    }

    #[test]
    fn doubles_up_to_the_longest() {
        let backoff = Backoff {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
        };
        let delays: Vec<u64> = (1..9).map(|n| backoff.delay(n, 0.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
