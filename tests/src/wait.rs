//! Deadlines: every wait of the lab has one, and its error says what did not happen.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};

/// The limit for everything that normally takes well under a second: long enough on a busy machine too.
pub const LONG: Duration = Duration::from_secs(20);

/// Waits for `work`, at most `limit`. `what` completes the message "waited 20s for …".
///
/// # Errors
/// If `work` is not done within `limit`.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .with_context(|| format!("waited {limit:?} for {what}"))
}
