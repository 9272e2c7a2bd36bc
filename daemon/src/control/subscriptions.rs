//! What a client follows: events and log lines, each behind a bounded queue that never slows the sender.

use std::sync::Arc;

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;
use tunneld_proto::message::{Event, LogLine, method};

use super::outbox::{Gone, Outbox};
use crate::supervisor::Supervisor;

/// Sends every event; where the client was too slow for some, says how many and begins anew with a snapshot.
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
                let (mut snapshot, fresh) = supervisor.subscribe();
                events = fresh;
                snapshot.missed = Some(missed);
                outbox.notify(method::LAGGED, &snapshot).await
            }
            None => return,
        };
        if sent == Err(Gone) {
            return;
        }
    }
}

/// Sends every log line of `tunnel`, or of all.
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
            Some(Err(missed)) => outbox.notify(method::LOG, &missing(missed)).await,
            None => return,
        };
        if sent == Err(Gone) {
            return;
        }
    }
}

fn missing(missed: u64) -> LogLine {
    LogLine {
        at: jiff::Timestamp::now(),
        level: "warn".into(),
        tunnel: None,
        message: format!("{missed} log lines were not sent: this client was too slow for them"),
    }
}

/// The next item, or how many were missed; none when all is over and everything before that was taken.
async fn next<T: Clone>(
    feed: &mut Receiver<T>,
    stopped: &CancellationToken,
) -> Option<Result<T, u64>> {
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
