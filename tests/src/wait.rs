//! Deadlines: every wait of the lab has one and says what it waited for.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};

/// Long enough for anything that works, even on a busy machine.
pub const LONG: Duration = Duration::from_secs(20);

/// Waits for `work`, at most `limit`.
///
/// # Errors
/// Where the time ran out; the message bears `what`.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .with_context(|| format!("waited {limit:?} for {what}"))
}
