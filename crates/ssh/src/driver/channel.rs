//! One channel's handles. The ends tell apart: EOF, CLOSE without EOF, the session's end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::session::Handle;
use super::state::{OUT_HIGH, OUT_SLACK, State};
use super::wake::remember;
use crate::connection::{ChannelId, Listen, SMALL, Taken, Unwritten};
use crate::error::Error;

/// A connection that the server opened for one of our forwards.
#[derive(Debug)]
pub struct Incoming {
    /// The forward, as it was asked for.
    pub listen: Listen,
    /// The port really bound; 0 for a Unix socket.
    pub port: u16,
    /// Who connected, as the server says; never trusted, not escaped. Empty for a Unix socket.
    pub originator: String,
    /// The channel. Dropping it refuses it.
    pub channel: PendingChannel,
}

/// A channel that the server wants opened.
#[derive(Debug)]
pub struct PendingChannel {
    handle: Option<Arc<Handle>>,
    id: ChannelId,
}

impl PendingChannel {
    pub(crate) fn new(handle: Arc<Handle>, id: ChannelId) -> Self {
        Self {
            handle: Some(handle),
            id,
        }
    }

    /// Takes it.
    ///
    /// # Errors
    /// The session's end.
    pub fn accept(mut self) -> io::Result<Channel> {
        let handle = self.handle.take().ok_or(io::ErrorKind::NotConnected)?;
        handle.shared.with(|state| match &state.ended {
            Some(error) => Err(aborted(error)),
            None => {
                state.connection.accept(self.id, &mut state.transport);
                Ok(())
            }
        })?;
        Ok(Channel::new(handle, self.id))
    }

    /// Refuses it: RFC 4254 §5.1's reason code and a text.
    pub fn refuse(mut self, code: u32, text: &str) {
        self.answer_no(code, text);
    }

    fn answer_no(&mut self, code: u32, text: &str) {
        if let Some(handle) = self.handle.take() {
            handle.shared.with(|state| {
                state
                    .connection
                    .refuse(self.id, code, text, &mut state.transport);
            });
        }
    }
}

impl Drop for PendingChannel {
    fn drop(&mut self) {
        self.answer_no(2, "not taken");
    }
}

/// One connection over the session.
///
/// Reading: the end of the stream only after the server's EOF. A CLOSE without EOF is `ConnectionReset`, the
/// session's end `ConnectionAborted`. Shutting down writes EOF and leaves reading open. Dropping both halves
/// sends CLOSE.
#[derive(Debug)]
pub struct Channel {
    reader: ChannelReader,
    writer: ChannelWriter,
}

/// The reading half.
#[derive(Debug)]
pub struct ChannelReader {
    handle: Arc<Handle>,
    id: ChannelId,
    rest: Bytes,
}

/// The writing half. A write waits for window and for its turn, and wakes with an error when the session ends.
#[derive(Debug)]
pub struct ChannelWriter {
    handle: Arc<Handle>,
    id: ChannelId,
}

impl Channel {
    pub(crate) fn new(handle: Arc<Handle>, id: ChannelId) -> Self {
        Self {
            reader: ChannelReader {
                handle: Arc::clone(&handle),
                id,
                rest: Bytes::new(),
            },
            writer: ChannelWriter { handle, id },
        }
    }

    /// Two halves that end each alone.
    pub fn split(self) -> (ChannelReader, ChannelWriter) {
        (self.reader, self.writer)
    }
}

impl ChannelReader {
    /// The next bytes, of whatever length they came in; `None` after EOF. What was given before counts as
    /// consumed when this is called again: that is when the server may send more. Cancel-safe.
    ///
    /// # Errors
    /// `ConnectionReset` after a CLOSE without EOF, `ConnectionAborted` when the session has ended.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`ChannelReader::next`], polled.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        self.handle.shared.with(|state| take(state, self.id, cx))
    }

    /// Waits for bytes as [`ChannelReader::next`] does, and appends all that are there, about `most` bytes at
    /// most, to `pieces`; `false` after EOF. Cancel-safe.
    ///
    /// # Errors
    /// As [`ChannelReader::next`].
    pub async fn next_pieces(
        &mut self,
        pieces: &mut impl Extend<Bytes>,
        most: usize,
    ) -> io::Result<bool> {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            pieces.extend([rest]);
            return Ok(true);
        }
        poll_fn(|cx| {
            self.handle.shared.with(|state| {
                let Some(first) = ready!(take(state, self.id, cx))? else {
                    return Poll::Ready(Ok(false));
                };
                let mut total = first.len();
                pieces.extend([first]);
                while total < most
                    && let Some(more) = state.connection.take_more(self.id)
                {
                    total += more.len();
                    pieces.extend([more]);
                }
                Poll::Ready(Ok(true))
            })
        })
        .await
    }
}

fn take(state: &mut State, id: ChannelId, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
    let now = Instant::now().into_std();
    match state.connection.take(id, now, &mut state.transport) {
        Taken::Data(bytes) => Poll::Ready(Ok(Some(bytes))),
        Taken::Eof => Poll::Ready(Ok(None)),
        Taken::Reset => Poll::Ready(Err(reset())),
        Taken::Nothing => {
            if let Some(error) = &state.ended {
                return Poll::Ready(Err(aborted(error)));
            }
            if let Some(slot) = state.slot(id) {
                remember(&mut slot.reader, cx.waker());
            }
            Poll::Pending
        }
    }
}

impl ChannelWriter {
    /// Waits until the server takes no more: its CLOSE came, or the session ended. Cancel-safe.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            self.handle.shared.drive(|state| {
                if state.ended.is_some() || state.connection.is_closed(self.id) {
                    return Poll::Ready(());
                }
                if let Some(slot) = state.slot(self.id) {
                    // Several may wait.
                    if !slot.closers.iter().any(|known| known.will_wake(cx.waker())) {
                        slot.closers.push(cx.waker().clone());
                    }
                }
                Poll::Pending
            })
        })
        .await;
    }
}

fn write(
    state: &mut State,
    id: ChannelId,
    cx: &mut Context<'_>,
    data: &[u8],
) -> Poll<io::Result<usize>> {
    if let Some(error) = &state.ended {
        return Poll::Ready(Err(aborted(error)));
    }
    let now = Instant::now().into_std();
    let before = state.connection.poll_timeout();
    let allowed = state.connection.may_write(id, data.len(), now);
    if let Err(why @ (Unwritten::Closed | Unwritten::Ended)) = allowed {
        return Poll::Ready(Err(unwritten(why)));
    }
    let sealed = state.transport.output().len();
    let rekeying = state.transport.is_rekeying();
    let others = !state.queue.is_empty() || state.granted > 0;
    let Some(slot) = state.slots.get_mut(id.0 as usize) else {
        return Poll::Ready(Err(unwritten(Unwritten::Closed)));
    };
    let turn = std::mem::take(&mut slot.turn);
    if turn {
        state.granted = state.granted.saturating_sub(1);
    }
    if allowed.is_err() {
        remember(&mut slot.writer, cx.waker());
        if state.connection.poll_timeout() != before {
            // The driver keeps the time of this wait.
            state.kick();
        }
        return Poll::Pending;
    }
    let full = match (turn, data.len() <= SMALL) {
        (true, _) => false,
        (_, true) => sealed >= OUT_HIGH + OUT_SLACK,
        _ => sealed >= OUT_HIGH || others,
    };
    if rekeying || full {
        remember(&mut slot.writer, cx.waker());
        if !slot.queued {
            slot.queued = true;
            state.queue.push_back(id);
        }
        if sealed < OUT_HIGH {
            state.kick();
        }
        return Poll::Pending;
    }
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match state.connection.write(id, rest, &mut state.transport) {
            Ok(count) => done += count,
            Err(_) => break,
        }
        let others = !state.queue.is_empty() || state.granted > 0;
        if others || state.transport.output().len() >= OUT_HIGH {
            break;
        }
    }
    Poll::Ready(Ok(done))
}

fn unwritten(why: Unwritten) -> io::Error {
    match why {
        Unwritten::Ended => io::Error::new(
            io::ErrorKind::BrokenPipe,
            "this direction was shut down already",
        ),
        Unwritten::Closed | Unwritten::NoWindow => reset(),
    }
}

fn reset() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the server closed the channel",
    )
}

fn aborted(error: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, error.clone())
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(mut bytes) = ready!(self.poll_next(cx))? {
            let count = bytes.len().min(buf.remaining());
            buf.put_slice(bytes.get(..count).unwrap_or_default());
            bytes.advance(count);
            self.rest = bytes;
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
            .with(|state| write(state, self.id, cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle.shared.with(|state| {
            if let Some(error) = &state.ended {
                return Poll::Ready(Err(aborted(error)));
            }
            state.connection.eof(self.id, &mut state.transport);
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
        self.handle.shared.with(|state| {
            if let Some(slot) = state.slot(self.id) {
                slot.reader = None;
            }
            state
                .connection
                .drop_reader(self.id, now, &mut state.transport);
        });
    }
}

impl Drop for ChannelWriter {
    fn drop(&mut self) {
        self.handle.shared.with(|state| {
            if let Some(slot) = state.slot(self.id) {
                slot.writer = None;
                slot.closers = Vec::new();
            }
            state.connection.drop_writer(self.id, &mut state.transport);
        });
    }
}
