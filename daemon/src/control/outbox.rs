//! The queue of lines that wait to be sent to one client.
//!
//! The queue is bounded in bytes. Replies wait for room in it, and requests are read only after their predecessor's
//! reply was queued, so a client that does not read is not read from either. A client that takes no byte for
//! [`WRITE_TIMEOUT`] is disconnected.

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

/// Bytes that may wait to be sent: 64 KiB.
const QUEUE_BYTES: usize = 64 * 1024;
/// Longest time without progress while a line is written. Then the client is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sending end of the queue; clones share it.
#[derive(Clone)]
pub(super) struct Outbox {
    // Unbounded in the number of lines; bounded in bytes by the permits that each line holds until it is written.
    queue: mpsc::UnboundedSender<QueuedLine>,
    free_bytes: Arc<Semaphore>,
}

/// Receiving end of the queue, for [`send_all`].
pub(super) type QueuedLines = mpsc::UnboundedReceiver<QueuedLine>;

type QueuedLine = (Bytes, OwnedSemaphorePermit);

/// The connection to the client has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disconnected;

impl Outbox {
    pub(super) fn new() -> (Self, QueuedLines) {
        let (queue, lines) = mpsc::unbounded_channel();
        let free_bytes = Arc::new(Semaphore::new(QUEUE_BYTES));
        (Self { queue, free_bytes }, lines)
    }

    /// Queues the reply to request `id`; waits until there is room for it. A reply over [`MAX_LINE`] becomes an error.
    pub(super) async fn reply(
        &self,
        id: Value,
        outcome: Result<Value, RpcError>,
    ) -> Result<(), Disconnected> {
        let line = reply_line(id.clone(), outcome);
        if line.len() <= MAX_LINE {
            return self.send(line).await;
        }
        let error = RpcError::new(
            ErrorKind::Internal,
            format!(
                "the reply has {} bytes, but a line may have at most {MAX_LINE}",
                line.len()
            ),
        )
        .hint("request less at once, for example single tunnels by name");
        self.send(reply_line(id, Err(error))).await
    }

    /// Queues a notification; waits until there is room for it.
    pub(super) async fn notify(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<(), Disconnected> {
        let request = Request {
            jsonrpc: "2.0".into(),
            id: None,
            method: method.into(),
            params: serde_json::to_value(params).unwrap_or_default(),
        };
        self.send(to_line(&request).unwrap_or_default()).await
    }

    async fn send(&self, line: Bytes) -> Result<(), Disconnected> {
        // A line longer than the whole queue takes all permits: it waits until the queue is empty, instead of for ever.
        let permits = u32::try_from(line.len().min(QUEUE_BYTES)).unwrap_or(u32::MAX);
        let permit = self.free_bytes.clone().acquire_many_owned(permits).await;
        let queued = (line, permit.map_err(|_| Disconnected)?);
        self.queue.send(queued).map_err(|_| Disconnected)
    }
}

/// Returns one reply as a line of the protocol.
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
    // Values and strings can always be serialised.
    to_line(&reply).unwrap_or_default()
}

/// Writes queued lines until all [`Outbox`] handles are dropped, and returns the writer.
///
/// # Errors
/// The writer's error, or `TimedOut` if the client takes no byte for [`WRITE_TIMEOUT`].
pub(super) async fn send_all<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut lines: QueuedLines,
) -> io::Result<W> {
    while let Some((mut line, _permit)) = lines.recv().await {
        while line.has_remaining() {
            // The limit starts again with each byte taken: a slow client stays, one that does not read at all goes.
            let sent = timeout(WRITE_TIMEOUT, writer.write_buf(&mut line)).await;
            if sent.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        let flushed = timeout(WRITE_TIMEOUT, writer.flush()).await;
        flushed.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(writer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_blocks_its_own_replies_and_is_disconnected() {
        let (server, mut client) = tokio::io::duplex(1024);
        let (outbox, lines) = Outbox::new();
        let big = Value::String("x".repeat(QUEUE_BYTES));
        let fill = async {
            outbox.reply(1.into(), Ok(big.clone())).await.unwrap();
            outbox.reply(2.into(), Ok(big.clone())).await
        };
        let started = tokio::time::Instant::now();
        let sent = tokio::select! {
            sent = send_all(server, lines) => sent,
            _ = fill => panic!("the second reply had room"),
        };
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 10);
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), 1024);
    }

    #[tokio::test]
    async fn a_reply_over_the_line_limit_becomes_an_error() {
        let (server, mut client) = tokio::io::duplex(MAX_LINE * 2);
        let (outbox, lines) = Outbox::new();
        let huge = Value::String("x".repeat(MAX_LINE));
        outbox.reply(7.into(), Ok(huge)).await.unwrap();
        drop(outbox);
        drop(send_all(server, lines).await.unwrap());
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        let reply: Reply = serde_json::from_str(&received).unwrap();
        assert_eq!(reply.id, 7);
        assert_eq!(reply.error.unwrap().data.kind, ErrorKind::Internal);
    }
}
