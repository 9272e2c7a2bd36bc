//! The transport against a server half in memory.

use std::time::Instant;

/// Some time.
pub(crate) fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}
