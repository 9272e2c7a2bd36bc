//! Reading, writing and ending channels (RFC 4254 §5.2 and §5.3), as the owner of a channel asks for it.

use std::time::Instant;

use bytes::Bytes;

use super::channel::{Channel, ChannelState, DirectionEnd, ReadResult};
use super::{ChannelId, Connection, ConnectionEvent, PacketSink, message, send_credit};

/// Why nothing may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// The window is used up: wait for [`ConnectionEvent::Writable`].
    NoWindow,
    /// The server closed the channel, or it was never open.
    Closed,
    /// We sent EOF or CLOSE.
    EofSent,
}

impl Connection {
    /// Sends a prefix of `data` in one packet and returns its length. Empty `data` is allowed as long as the channel is
    /// writable.
    ///
    /// # Errors
    /// Why nothing may be written.
    pub fn write(
        &mut self,
        id: ChannelId,
        data: &[u8],
        out: &mut impl PacketSink,
    ) -> Result<usize, WriteError> {
        let channel = self.channels.get_mut(id.0).ok_or(WriteError::Closed)?;
        check_writable(channel)?;
        if data.is_empty() {
            return Ok(0);
        }
        let len = channel.send_window.allows(data.len());
        let (Some(data), Ok(wire_len)) = (data.get(..len), u32::try_from(len)) else {
            return Err(WriteError::NoWindow);
        };
        if len == 0 {
            return Err(WriteError::NoWindow);
        }
        channel.send_window.send(len);
        // Two parts: the data is copied once, into the buffer in which it is sealed.
        out.send_parts(&message::data_header(channel.remote_id, wire_len), data);
        Ok(len)
    }

    /// Returns how much of a write of `len` bytes [`Connection::write`] would send now. Counts the write as the start
    /// of an interactive conversation, and starts the wait for credit on [`WriteError::NoWindow`].
    ///
    /// # Errors
    /// As [`Connection::write`].
    pub fn write_allowance(
        &mut self,
        id: ChannelId,
        len: usize,
        now: Instant,
    ) -> Result<usize, WriteError> {
        let min_rtt = self.rtt.min();
        let low_latency = self.interactive.is_other_interactive(id.0, now, min_rtt);
        let channel = self.channels.get_mut(id.0).ok_or(WriteError::Closed)?;
        check_writable(channel)?;
        // Set at each write and not by events: whether another channel is interactive changes with time alone.
        channel.send_window.set_low_latency(low_latency);
        // Before the window is asked: a small write that has to wait is interactive, too.
        self.interactive
            .record_write(id.0, len, &channel.send_window, now);
        match channel.send_window.allows(len) {
            0 if len > 0 => {
                if let Some(deadline) = channel.send_window.start_wait(now, min_rtt) {
                    let earlier = self.next_wait_deadline.filter(|known| *known < deadline);
                    self.next_wait_deadline = Some(earlier.unwrap_or(deadline));
                }
                Err(WriteError::NoWindow)
            }
            len => Ok(len),
        }
    }

    /// When [`Connection::handle_timeout`] has to be called. `None` if no timer runs.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_wait_deadline
    }

    /// Lets those writers go on that have waited too long for credit below their window.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self
            .next_wait_deadline
            .is_none_or(|deadline| now < deadline)
        {
            return;
        }
        let min_rtt = self.rtt.min();
        let mut next: Option<Instant> = None;
        // All channels: timers are rare, and an ordered set of deadlines would have to be kept at each write.
        for (id, channel) in self.channels.iter_mut() {
            if channel.send_window.expire_wait(now, min_rtt) {
                self.events
                    .push_back(ConnectionEvent::Writable(ChannelId(id)));
            } else if let Some(deadline) = channel.send_window.wait_deadline(min_rtt) {
                next = Some(next.map_or(deadline, |known| known.min(deadline)));
            }
        }
        self.next_wait_deadline = next;
    }

    /// Sends EOF: no bytes follow in our direction, and the server reads to the end of what was written.
    pub fn send_eof(&mut self, id: ChannelId, out: &mut impl PacketSink) {
        if let Some(channel) = self.channels.get_mut(id.0)
            && channel.is_writable()
        {
            // RFC 4254 §5.3: EOF uses no window, so that it never waits. It follows all data, because packets are
            // sealed in order.
            channel.local_end = DirectionEnd::Eof;
            out.send(&message::for_channel(message::EOF, channel.remote_id));
        }
    }

    /// Takes received bytes. What was taken before counts as consumed by this call, and credit for it is sent.
    pub fn read(&mut self, id: ChannelId, now: Instant, out: &mut impl PacketSink) -> ReadResult {
        let min_rtt = self.rtt.min();
        let Some(channel) = self.channels.get_mut(id.0) else {
            return ReadResult::Reset;
        };
        let result = channel.read(now, min_rtt);
        // The next channel starts with its share of it, so that it need not measure the line again.
        self.largest_window = self.largest_window.max(channel.recv_window.target());
        send_credit(channel, out);
        result
    }

    /// Takes one more chunk of the same read. `None` if nothing is buffered.
    pub fn read_more(&mut self, id: ChannelId) -> Option<Bytes> {
        self.channels.get_mut(id.0)?.read_more()
    }

    /// Whether the server has closed the channel.
    pub fn is_closed(&mut self, id: ChannelId) -> bool {
        self.channels
            .get_mut(id.0)
            .is_none_or(|channel| channel.remote_end == DirectionEnd::Closed)
    }

    /// Ends reading: what the server still sends is thrown away, with credit, so that it can finish.
    pub fn drop_reader(&mut self, id: ChannelId, now: Instant, out: &mut impl PacketSink) {
        if let Some(channel) = self.channels.get_mut(id.0) {
            channel.drop_reader();
            if channel.writer_dropped {
                self.close_channel(id, out);
            } else {
                // No round trip: bytes that are thrown away show no reader's rate and must not enlarge the window.
                channel.settle(now, None);
                send_credit(channel, out);
            }
        }
    }

    /// Ends writing. Sends no EOF: without [`Connection::send_eof`] before it, the server sees a reset.
    pub fn drop_writer(&mut self, id: ChannelId, out: &mut impl PacketSink) {
        if let Some(channel) = self.channels.get_mut(id.0) {
            channel.writer_dropped = true;
            if channel.reader_dropped {
                self.close_channel(id, out);
            }
        }
    }

    fn close_channel(&mut self, id: ChannelId, out: &mut impl PacketSink) {
        if let Some(channel) = self.channels.get_mut(id.0)
            // A channel that is not confirmed yet has no number of the server's to send CLOSE for:
            // `on_open_confirmation` does it.
            && channel.state == ChannelState::Open
            && channel.local_end < DirectionEnd::Closed
        {
            channel.local_end = DirectionEnd::Closed;
            out.send(&message::for_channel(message::CLOSE, channel.remote_id));
        }
        self.release(id.0);
    }

    /// Removes the channel once neither side refers to it.
    pub(super) fn release(&mut self, id: u32) {
        if self
            .channels
            .get_mut(id)
            .is_some_and(|channel| channel.is_finished())
        {
            self.channels.remove(id);
        }
    }

    /// Returns the received bytes that wait for readers, of all channels.
    pub fn buffered_bytes(&self) -> usize {
        self.channels.iter().map(Channel::buffered_bytes).sum()
    }
}

fn check_writable(channel: &Channel) -> Result<(), WriteError> {
    if channel.remote_end == DirectionEnd::Closed {
        return Err(WriteError::Closed);
    }
    if !channel.is_writable() {
        return Err(WriteError::EofSent);
    }
    Ok(())
}
