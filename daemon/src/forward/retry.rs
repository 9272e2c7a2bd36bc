//! The delays between attempts to bind a local address or to have the server listen for a remote forward.

use std::time::Duration;

const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];

/// Returns the delay before each retry: 1, 2, 4 and 8 s, then 15 s without end.
pub(super) fn retry_delays() -> impl Iterator<Item = Duration> {
    let last = RETRY_DELAYS.last().copied().unwrap_or_default();
    RETRY_DELAYS.into_iter().chain(std::iter::repeat(last))
}
