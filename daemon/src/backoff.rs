//! Delays between connection attempts. Pure: the caller passes the jitter.

use std::time::Duration;

/// Delay after the first refused login.
const REFUSED_INITIAL: Duration = Duration::from_secs(30);

/// Upper limit of the delay after refused logins, without jitter.
const REFUSED_MAX: Duration = Duration::from_secs(600);

/// Largest exponent of the doubling: keeps `1 << n` within `u32` however long a server is down.
const MAX_DOUBLINGS: u32 = 20;

/// The configured retry delays of one tunnel (`backoff_initial`, `backoff_max`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the first failure.
    pub initial: Duration,
    /// Upper limit of the delay.
    pub max: Duration,
}

impl Backoff {
    /// Returns the delay after the `failures`th failure in a row, counted from 1. It doubles with each failure, up to
    /// `max`. `jitter`, from 0 to 1, shortens it by up to half.
    pub fn delay(self, failures: u32, jitter: f64) -> Duration {
        let full = self
            .initial
            .saturating_mul(1 << doublings(failures))
            .min(self.max);
        full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// Returns the delay after the `refusals`th refused login in a row, counted from 1: 30 s, doubling up to 10 min.
    /// `jitter`, from 0 to 1, lengthens it by up to a tenth. The tunnel's configuration has no influence, because
    /// servers lock accounts after a few refused logins.
    pub fn after_refusal(refusals: u32, jitter: f64) -> Duration {
        let full = REFUSED_INITIAL
            .saturating_mul(1 << doublings(refusals))
            .min(REFUSED_MAX);
        // Unlike `delay`, this never goes below the documented 30 s.
        full.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0)
    }
}

fn doublings(count: u32) -> u32 {
    count.saturating_sub(1).min(MAX_DOUBLINGS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_stay_within_their_limits(failures in 0u32.., jitter in 0.0f64..1.0) {
            let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60) };
            let delay = backoff.delay(failures, jitter);
            prop_assert!(delay >= Duration::from_millis(500) && delay <= Duration::from_secs(60));
            let refused = Backoff::after_refusal(failures, jitter);
            prop_assert!(refused >= Duration::from_secs(30) && refused <= Duration::from_secs(660));
        }
    }

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let backoff = Backoff {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
        };
        let delays: Vec<u64> = (1..9).map(|n| backoff.delay(n, 0.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
