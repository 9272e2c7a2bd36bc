//! What a client has subscribed to: events (`events.subscribe`) and log lines (`log.tail` with `follow`).
//!
//! Each subscription reads a bounded broadcast channel. A client that is too slow loses items and is informed of their
//! number; it never slows down the sender.

use std::sync::Arc;

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;
use tunneld_proto::message::{Event, LogLine, method};

use super::outbox::{Disconnected, Outbox};
use crate::supervisor::Supervisor;

/// Sends every event to the client. If the client was too slow for some, sends `lagged` with their number and a new
/// snapshot, and continues from there.
pub(super) async fn events(
    supervisor: Supervisor,
    mut events: Receiver<Event>,
    outbox: Outbox,
    stopped: CancellationToken,
) {
    loop {
        let sent = match next(&mut events, &stopped).await {
            Some(Ok(event)) => outbox.notify(method::EVENT, &event).await,
            Some(Err(missed)) => {
                let (mut snapshot, new_events) = supervisor.subscribe();
                events = new_events;
                snapshot.missed = Some(missed);
                outbox.notify(method::LAGGED, &snapshot).await
            }
            None => return,
        };
        if sent == Err(Disconnected) {
            return;
        }
    }
}

/// Sends every log line of `tunnel` to the client, or every line if `tunnel` is `None`. A warning line replaces the
/// lines for which the client was too slow.
pub(super) async fn log(
    tunnel: Option<String>,
    mut lines: Receiver<Arc<LogLine>>,
    outbox: Outbox,
    stopped: CancellationToken,
) {
    loop {
        let sent = match next(&mut lines, &stopped).await {
            Some(Ok(line)) if tunnel.is_some() && line.tunnel != tunnel => Ok(()),
            Some(Ok(line)) => outbox.notify(method::LOG, &*line).await,
            Some(Err(missed)) => outbox.notify(method::LOG, &lagged_line(missed)).await,
            None => return,
        };
        if sent == Err(Disconnected) {
            return;
        }
    }
}

fn lagged_line(missed: u64) -> LogLine {
    LogLine {
        at: jiff::Timestamp::now(),
        level: "warn".into(),
        tunnel: None,
        message: format!("{missed} log lines were not sent: this client reads too slowly"),
    }
}

/// Waits for the next item, or the number of items that were missed. `None` when the daemon has stopped and all earlier
/// items were returned.
async fn next<T: Clone>(
    feed: &mut Receiver<T>,
    stopped: &CancellationToken,
) -> Option<Result<T, u64>> {
    // Biased: the last events, such as `bye`, are sent before the end is noticed.
    let item = tokio::select! {
        biased;
        item = feed.recv() => item,
        () = stopped.cancelled() => return None,
    };
    match item {
        Ok(item) => Some(Ok(item)),
        Err(RecvError::Lagged(missed)) => Some(Err(missed)),
        Err(RecvError::Closed) => None,
    }
}
