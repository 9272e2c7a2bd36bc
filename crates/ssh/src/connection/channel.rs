//! One channel (RFC 4254 §5). Its two directions end independently: each by EOF, then by CLOSE.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::recv_buffer::RecvBuffer;
use super::recv_window::RecvWindow;
use super::send_window::SendWindow;

/// How far the opening of a channel has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelState {
    /// We sent CHANNEL_OPEN and wait for the answer.
    Opening,
    /// The server sent CHANNEL_OPEN and waits for our answer.
    Offered,
    /// Both sides have opened it. Stays so until the channel is removed; the ends are in [`DirectionEnd`].
    Open,
}

/// How far one direction has ended; later ends include the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DirectionEnd {
    /// Neither EOF nor CLOSE was sent in this direction: bytes may follow.
    Flowing,
    /// CHANNEL_EOF was sent: no bytes follow, but the other direction continues (RFC 4254 §5.3).
    Eof,
    /// CHANNEL_CLOSE was sent: nothing follows for this channel, and the other side answers with CLOSE.
    Closed,
}

/// What a read of a channel returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadResult {
    /// Received bytes, in the size in which they were received; never empty.
    Data(Bytes),
    /// Nothing yet: wait for [`ConnectionEvent::Readable`](super::ConnectionEvent::Readable).
    Empty,
    /// The server sent EOF, and everything before it has been read.
    Eof,
    /// The server sent CLOSE without EOF, and everything before it has been read.
    Reset,
}

/// What happened to received data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// It waits for the reader.
    Buffered,
    /// The reader was dropped, so the data was thrown away.
    Discarded,
    /// It does not fit into the window, which ends the session (RFC 4254 §5.2).
    WindowExceeded,
    /// It follows an EOF or CLOSE.
    AfterEnd,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) state: ChannelState,
    /// When we sent CHANNEL_OPEN. `None` for channels that the server opened.
    pub(super) open_sent_at: Option<Instant>,
    /// The server's channel number; meaningless while [`ChannelState::Opening`].
    pub(super) remote_id: u32,
    pub(super) remote_end: DirectionEnd,
    pub(super) local_end: DirectionEnd,
    /// Whether the caller has dropped its reading handle: received data is thrown away.
    pub(super) reader_dropped: bool,
    /// Whether the caller has dropped its writing handle. With both dropped, the channel is closed.
    pub(super) writer_dropped: bool,
    pub(super) send_window: SendWindow,
    pub(super) recv_window: RecvWindow,
    recv_buffer: RecvBuffer,
    /// Bytes that were handed out or thrown away and do not count as consumed yet.
    unsettled: usize,
    /// Whether the server sent EOF before its CLOSE.
    eof_received: bool,
}

impl Channel {
    pub(super) fn new(
        state: ChannelState,
        remote_id: u32,
        recv_window: RecvWindow,
        send_window: SendWindow,
    ) -> Self {
        Self {
            state,
            open_sent_at: None,
            remote_id,
            remote_end: DirectionEnd::Flowing,
            local_end: DirectionEnd::Flowing,
            reader_dropped: false,
            writer_dropped: false,
            send_window,
            recv_window,
            recv_buffer: RecvBuffer::default(),
            unsettled: 0,
            eof_received: false,
        }
    }

    pub(super) fn receive(&mut self, data: Bytes) -> Received {
        if self.remote_end > DirectionEnd::Flowing {
            return Received::AfterEnd;
        }
        if !self.recv_window.receive(data.len()) {
            return Received::WindowExceeded;
        }
        if self.reader_dropped || self.local_end == DirectionEnd::Closed {
            // Still counted: credit lets the server send the rest and close.
            self.unsettled += data.len();
            return Received::Discarded;
        }
        // An empty CHANNEL_DATA is allowed and must not look like EOF to the reader.
        if !data.is_empty() {
            self.recv_buffer.push(data);
        }
        Received::Buffered
    }

    /// Discards received extended data (RFC 4254 §5.2), such as stderr. It uses the window as other data does.
    pub(super) fn receive_extended(&mut self, len: usize) -> Received {
        if self.remote_end > DirectionEnd::Flowing {
            return Received::AfterEnd;
        }
        if !self.recv_window.receive(len) {
            return Received::WindowExceeded;
        }
        // Nothing reads stderr on a forwarded channel, but without credit the server would stall on it.
        self.unsettled += len;
        Received::Discarded
    }

    pub(super) fn receive_eof(&mut self) {
        if self.remote_end == DirectionEnd::Flowing {
            self.remote_end = DirectionEnd::Eof;
            self.eof_received = true;
        }
    }

    pub(super) fn receive_close(&mut self) {
        self.remote_end = DirectionEnd::Closed;
    }

    /// Takes buffered bytes. What was taken before counts as consumed from now on.
    pub(super) fn read(&mut self, now: Instant, min_rtt: Option<Duration>) -> ReadResult {
        self.settle(now, min_rtt);
        match self.recv_buffer.pop() {
            Some(data) => {
                self.unsettled += data.len();
                ReadResult::Data(data)
            }
            // EOF wins over CLOSE: the usual end is both in one read. CLOSE alone means that bytes may be missing.
            None if self.eof_received => ReadResult::Eof,
            None if self.remote_end == DirectionEnd::Closed => ReadResult::Reset,
            None => ReadResult::Empty,
        }
    }

    /// Takes one more chunk of the same read: what was taken before does not count as consumed yet.
    pub(super) fn read_more(&mut self) -> Option<Bytes> {
        let data = self.recv_buffer.pop()?;
        self.unsettled += data.len();
        Some(data)
    }

    /// Counts as consumed what was handed out or thrown away.
    pub(super) fn settle(&mut self, now: Instant, min_rtt: Option<Duration>) {
        let consumed = std::mem::take(&mut self.unsettled);
        if consumed > 0 {
            self.recv_window.consume(now, consumed, min_rtt);
        }
    }

    /// Throws away what is buffered and everything that follows.
    pub(super) fn drop_reader(&mut self) {
        self.reader_dropped = true;
        self.unsettled += self.recv_buffer.clear();
    }

    /// Returns the bytes of credit to send now. `None` if no WINDOW_ADJUST is due.
    pub(super) fn take_credit(&mut self) -> Option<u32> {
        if self.state == ChannelState::Open
            // After its EOF the server sends no data that credit could be for.
            && self.remote_end == DirectionEnd::Flowing
            && self.local_end < DirectionEnd::Closed
        {
            self.recv_window.take_credit()
        } else {
            None
        }
    }

    /// Whether bytes may be sent, window aside.
    pub(super) fn is_writable(&self) -> bool {
        self.state == ChannelState::Open
            && self.local_end == DirectionEnd::Flowing
            && self.remote_end < DirectionEnd::Closed
    }

    /// Whether neither side refers to the channel any more, so that its number may be reused.
    pub(super) fn is_finished(&self) -> bool {
        self.reader_dropped
            && self.writer_dropped
            && self.local_end == DirectionEnd::Closed
            && self.remote_end == DirectionEnd::Closed
    }

    /// Bytes that wait for the reader.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.recv_buffer.len()
    }
}
