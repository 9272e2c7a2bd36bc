//! The handles of one channel (RFC 4254 §5). Reports three different ends: EOF, CLOSE without EOF, end of the
//! session.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::handle::Handle;
use super::state::{OUTPUT_HIGH_WATER, OUTPUT_SMALL_WRITE_SLACK, SessionState};
use super::wake::store_waker;
use crate::connection::{ChannelId, ReadResult, SMALL_WRITE, WriteError};
use crate::error::Error;

/// One byte stream over the session.
///
/// A read returns 0 bytes only after the server's EOF. It fails with `ConnectionReset` after a CLOSE without EOF, and
/// with `ConnectionAborted` after the end of the session. Shutting down sends EOF and leaves reading open. Dropping
/// both halves sends CLOSE.
#[derive(Debug)]
pub struct Channel {
    reader: ChannelReader,
    writer: ChannelWriter,
}

/// The reading half of a [`Channel`]. Dropping it discards what the server still sends.
#[derive(Debug)]
pub struct ChannelReader {
    handle: Arc<Handle>,
    id: ChannelId,
    /// The rest of a chunk that did not fit into the caller's buffer.
    remainder: Bytes,
}

/// The writing half of a [`Channel`]. A write waits for the server's window and for the channel's turn, and fails
/// when the session ends.
#[derive(Debug)]
pub struct ChannelWriter {
    handle: Arc<Handle>,
    id: ChannelId,
}

impl Channel {
    pub(super) fn new(handle: Arc<Handle>, id: ChannelId) -> Self {
        Self {
            reader: ChannelReader {
                handle: Arc::clone(&handle),
                id,
                remainder: Bytes::new(),
            },
            writer: ChannelWriter { handle, id },
        }
    }

    /// Splits the channel into halves that end independently.
    pub fn split(self) -> (ChannelReader, ChannelWriter) {
        (self.reader, self.writer)
    }
}

impl ChannelReader {
    /// Waits for the next bytes, in the sizes in which they were received. `None` after EOF. A chunk counts as consumed
    /// at the next call: only then does the server get credit for it.
    ///
    /// # Errors
    /// `ConnectionReset` after a CLOSE without EOF, `ConnectionAborted` after the end of the session.
    ///
    /// # Cancel safety
    /// Cancel safe: no bytes are lost.
    pub async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_read_chunk(cx)).await
    }

    /// Polled form of [`ChannelReader::read_chunk`]: registers the waker of `cx` if nothing is buffered.
    pub fn poll_read_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.remainder.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.remainder))));
        }
        self.handle
            .shared
            .submit(|state| poll_read(state, self.id, cx))
    }

    /// Waits for bytes as [`ChannelReader::read_chunk`] does and appends all buffered chunks to `chunks`, until they
    /// hold `max_bytes` or more. `false` after EOF.
    ///
    /// # Errors
    /// As [`ChannelReader::read_chunk`].
    ///
    /// # Cancel safety
    /// Cancel safe: no bytes are lost.
    pub async fn read_chunks(
        &mut self,
        chunks: &mut impl Extend<Bytes>,
        max_bytes: usize,
    ) -> io::Result<bool> {
        let remainder = std::mem::take(&mut self.remainder);
        if !remainder.is_empty() {
            // Alone: bytes that were counted as consumed already must not wait for the network.
            chunks.extend([remainder]);
            return Ok(true);
        }
        poll_fn(|cx| {
            self.handle.shared.submit(|state| {
                let Some(first) = ready!(poll_read(state, self.id, cx))? else {
                    return Poll::Ready(Ok(false));
                };
                let mut total = first.len();
                chunks.extend([first]);
                while total < max_bytes
                    && let Some(more) = state.connection.read_more(self.id)
                {
                    total += more.len();
                    chunks.extend([more]);
                }
                Poll::Ready(Ok(true))
            })
        })
        .await
    }
}

fn poll_read(
    state: &mut SessionState,
    id: ChannelId,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<Bytes>>> {
    let now = Instant::now().into_std();
    match state.connection.read(id, now, &mut state.transport) {
        ReadResult::Data(bytes) => Poll::Ready(Ok(Some(bytes))),
        ReadResult::Eof => Poll::Ready(Ok(None)),
        ReadResult::Reset => Poll::Ready(Err(channel_closed())),
        ReadResult::Empty => {
            if let Some(error) = &state.ended {
                return Poll::Ready(Err(session_ended(error)));
            }
            if let Some(waiters) = state.waiters(id) {
                store_waker(&mut waiters.reader, cx.waker());
            }
            Poll::Pending
        }
    }
}

impl ChannelWriter {
    /// Waits until the server accepts no more bytes: it sent CLOSE, or the session ended. Several tasks may wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            self.handle.shared.with_state(|state| {
                if state.ended.is_some() || state.connection.is_closed(self.id) {
                    return Poll::Ready(());
                }
                if let Some(waiters) = state.waiters(self.id) {
                    let watchers = &mut waiters.close_watchers;
                    // The same task polls again and again: without the check the list would grow with each poll.
                    if !watchers.iter().any(|stored| stored.will_wake(cx.waker())) {
                        watchers.push(cx.waker().clone());
                    }
                }
                Poll::Pending
            })
        })
        .await;
    }
}

/// Seals as much of `data` as the window, the output and the channel's turn allow.
fn poll_write(
    state: &mut SessionState,
    id: ChannelId,
    cx: &mut Context<'_>,
    data: &[u8],
) -> Poll<io::Result<usize>> {
    if let Some(error) = &state.ended {
        return Poll::Ready(Err(session_ended(error)));
    }
    let now = Instant::now().into_std();
    let deadline_before = state.connection.poll_timeout();
    // The window is asked before the turn: a writer without credit must not hold up those that have some.
    let allowance = state.connection.write_allowance(id, data.len(), now);
    if let Err(error @ (WriteError::Closed | WriteError::EofSent)) = allowance {
        return Poll::Ready(Err(write_error(error)));
    }
    let output_len = state.transport.output().len();
    let rekeying = state.transport.is_rekeying();
    let contended = is_contended(state);
    let Some(waiters) = state.waiters.get_mut(id.0 as usize) else {
        return Poll::Ready(Err(write_error(WriteError::Closed)));
    };
    // Taken whether it is used or not: a turn that stayed here would count against the others.
    let has_turn = std::mem::take(&mut waiters.has_turn);
    if has_turn {
        state.unused_turns = state.unused_turns.saturating_sub(1);
    }
    if allowance.is_err() {
        store_waker(&mut waiters.writer, cx.waker());
        if state.connection.poll_timeout() != deadline_before {
            // The session's task has to arm its timer for this wait.
            state.wake_task();
        }
        return Poll::Pending;
    }
    let must_wait = match (has_turn, data.len() <= SMALL_WRITE) {
        (true, _) => false,
        // Small writes are usually interactive: they do not queue behind bulk writers.
        (_, true) => output_len >= OUTPUT_HIGH_WATER + OUTPUT_SMALL_WRITE_SLACK,
        _ => output_len >= OUTPUT_HIGH_WATER || contended,
    };
    // Writers wait for the new keys, so that what is held back stays small.
    if rekeying || must_wait {
        wait_for_turn(state, id, cx);
        return Poll::Pending;
    }
    Poll::Ready(Ok(seal_packets(state, id, data)))
}

/// Queues the writer of a channel for its turn and registers the waker of `cx`.
fn wait_for_turn(state: &mut SessionState, id: ChannelId, cx: &mut Context<'_>) {
    let Some(waiters) = state.waiters.get_mut(id.0 as usize) else {
        return;
    };
    store_waker(&mut waiters.writer, cx.waker());
    if !waiters.queued {
        waiters.queued = true;
        state.write_queue.push_back(id);
    }
    // There is room, so that only a new round is missing; otherwise the task runs when the socket takes more.
    if state.transport.output().len() < OUTPUT_HIGH_WATER {
        state.wake_task();
    }
}

/// Seals packets until `data`, the window or the room in the output is used up; one packet if others wait.
fn seal_packets(state: &mut SessionState, id: ChannelId, data: &[u8]) -> usize {
    let mut sealed = 0;
    while let Some(remaining) = data.get(sealed..).filter(|bytes| !bytes.is_empty()) {
        match state.connection.write(id, remaining, &mut state.transport) {
            Ok(count) => sealed += count,
            Err(_) => break,
        }
        // After at least one packet, so that every call makes progress.
        if is_contended(state) || state.transport.output().len() >= OUTPUT_HIGH_WATER {
            break;
        }
    }
    sealed
}

/// Whether other channels wait for a turn or have not used theirs yet.
fn is_contended(state: &SessionState) -> bool {
    !state.write_queue.is_empty() || state.unused_turns > 0
}

fn write_error(error: WriteError) -> io::Error {
    match error {
        WriteError::EofSent => io::Error::new(
            io::ErrorKind::BrokenPipe,
            "this direction was shut down already",
        ),
        WriteError::Closed | WriteError::NoWindow => channel_closed(),
    }
}

fn channel_closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the server closed the channel",
    )
}

pub(super) fn session_ended(error: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, error.clone())
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Otherwise a chunk would be taken that has no room, and a result of 0 bytes means EOF.
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(mut bytes) = ready!(self.poll_read_chunk(cx))? {
            let count = bytes.len().min(buf.remaining());
            buf.put_slice(bytes.get(..count).unwrap_or_default());
            bytes.advance(count);
            self.remainder = bytes;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.handle
            .shared
            .submit(|state| poll_write(state, self.id, cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle.shared.submit(|state| {
            if let Some(error) = &state.ended {
                return Poll::Ready(Err(session_ended(error)));
            }
            state.connection.send_eof(self.id, &mut state.transport);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

impl Drop for ChannelReader {
    fn drop(&mut self) {
        let now = Instant::now().into_std();
        self.handle.shared.submit(|state| {
            if let Some(waiters) = state.waiters(self.id) {
                waiters.reader = None;
            }
            state
                .connection
                .drop_reader(self.id, now, &mut state.transport);
        });
    }
}

impl Drop for ChannelWriter {
    fn drop(&mut self) {
        self.handle.shared.submit(|state| {
            if let Some(waiters) = state.waiters(self.id) {
                // The waker would keep the task's memory alive until the channel's number is reused.
                waiters.writer = None;
                waiters.close_watchers = Vec::new();
            }
            state.connection.drop_writer(self.id, &mut state.transport);
        });
    }
}
