//! What waits to be sent to one client: bounded, so that a client that does not read is not read from either,
//! and is dropped when it takes nothing for a while.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tunneld_proto::codec::to_line;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{Reply, Request};
use tunneld_proto::version::MAX_LINE;

/// Bytes that may wait.
const UNSENT: usize = 64 * 1024;
/// A client that takes no byte for so long is dropped.
const PROGRESS: Duration = Duration::from_secs(10);

/// The sending end; clones fill the same box.
#[derive(Clone)]
pub(super) struct Outbox {
    // Unbounded in number, bounded by the permits that each entry holds.
    queue: mpsc::UnboundedSender<Entry>,
    room: Arc<Semaphore>,
}

/// The taking end.
pub(super) type Entries = mpsc::UnboundedReceiver<Entry>;

type Entry = (Bytes, OwnedSemaphorePermit);

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

impl Outbox {
    pub(super) fn new() -> (Self, Entries) {
        let (queue, entries) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(UNSENT));
        (Self { queue, room }, entries)
    }

    /// Sends the answer to request `id`; waits until there is room for it.
    pub(super) async fn reply(
        &self,
        id: Value,
        outcome: Result<Value, RpcError>,
    ) -> Result<(), Gone> {
        let line = reply_line(id.clone(), outcome);
        if line.len() <= MAX_LINE {
            return self.send(line).await;
        }
        let error = RpcError::new(
            ErrorKind::Internal,
            format!(
                "the answer has {} bytes, more than a line may have",
                line.len()
            ),
        )
        .hint("ask for less at once, such as for single tunnels by name");
        self.send(reply_line(id, Err(error))).await
    }

    /// Sends a notification; waits until there is room for it.
    pub(super) async fn notify(&self, method: &str, params: &impl Serialize) -> Result<(), Gone> {
        let request = Request {
            jsonrpc: "2.0".into(),
            id: None,
            method: method.into(),
            params: serde_json::to_value(params).unwrap_or_default(),
        };
        self.send(to_line(&request).unwrap_or_default()).await
    }

    async fn send(&self, line: Bytes) -> Result<(), Gone> {
        let room = u32::try_from(line.len().min(UNSENT)).unwrap_or(u32::MAX);
        let permit = self.room.clone().acquire_many_owned(room).await;
        let entry = (line, permit.map_err(|_| Gone)?);
        self.queue.send(entry).map_err(|_| Gone)
    }
}

/// One reply as it goes over the wire.
pub(super) fn reply_line(id: Value, outcome: Result<Value, RpcError>) -> Bytes {
    let (result, error) = match outcome {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    let reply = Reply {
        jsonrpc: "2.0".into(),
        id,
        result,
        error,
    };
    // Values and strings always serialise.
    to_line(&reply).unwrap_or_default()
}

/// Sends what is in the box until every sending end is gone; gives the writer back.
pub(super) async fn send_all<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut entries: Entries,
) -> io::Result<W> {
    while let Some((mut line, _room)) = entries.recv().await {
        while line.has_remaining() {
            let sent = timeout(PROGRESS, writer.write_buf(&mut line)).await;
            if sent.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        let flushed = timeout(PROGRESS, writer.flush()).await;
        flushed.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(writer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_holds_up_its_own_replies_and_is_dropped() {
        let (near, mut far) = tokio::io::duplex(1024);
        let (outbox, entries) = Outbox::new();
        let big = Value::String("x".repeat(UNSENT));
        let fill = async {
            outbox.reply(1.into(), Ok(big.clone())).await.unwrap();
            outbox.reply(2.into(), Ok(big.clone())).await
        };
        let begun = tokio::time::Instant::now();
        let sent = tokio::select! {
            sent = send_all(near, entries) => sent,
            _ = fill => panic!("the second reply had room"),
        };
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 10);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 1024);
    }

    #[tokio::test]
    async fn an_answer_longer_than_a_line_becomes_an_error() {
        let (near, mut far) = tokio::io::duplex(MAX_LINE * 2);
        let (outbox, entries) = Outbox::new();
        let huge = Value::String("x".repeat(MAX_LINE));
        outbox.reply(7.into(), Ok(huge)).await.unwrap();
        drop(outbox);
        drop(send_all(near, entries).await.unwrap());
        let mut got = String::new();
        far.read_to_string(&mut got).await.unwrap();
        let reply: Reply = serde_json::from_str(&got).unwrap();
        assert_eq!(reply.id, 7);
        assert_eq!(reply.error.unwrap().data.kind, ErrorKind::Internal);
    }
}
