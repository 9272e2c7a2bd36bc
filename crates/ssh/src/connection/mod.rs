//! RFC 4254: channels, their windows, and global requests.
//!
//! Pure: [`Connection`] is given packets and the time, sends through a [`PacketSink`] and reports [`ConnectionEvent`]s.
//! The server gets credit only for bytes that a channel's reader has consumed, so a reader that has stopped costs one
//! window and holds up no other channel.

mod channel;
mod channel_table;
mod event;
mod forwards;
mod global_request;
mod message;
mod open;
mod pending;
mod recv_buffer;
mod recv_window;
mod rtt;
mod send_window;
mod transfer;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::Error;
use crate::token_bucket::TokenBucket;
use crate::wire::Reader;
pub use channel::ReadResult;
use channel::{Channel, DirectionEnd, Received};
use channel_table::ChannelTable;
pub use event::{ConnectionEvent, OpenRequest};
use forwards::RemoteForwards;
pub use message::{ChannelTarget, RemoteListen};
use pending::PendingRequests;
pub use pending::{GlobalReply, RequestId};
pub use recv_window::WindowLimits;
use rtt::RttEstimator;
use send_window::InteractiveDetector;
#[cfg(feature = "client")]
pub(crate) use send_window::SMALL_WRITE;
pub use transfer::WriteError;

/// Our number of a channel. It may be reused after the channel is closed on both sides and its handles are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub(crate) u32);

/// Where a [`Connection`] sends its messages.
pub trait PacketSink {
    /// Sends one payload, message number included.
    fn send(&mut self, payload: &[u8]);
    /// Sends one payload in two parts, so that channel data needs no copy in front of the sealing.
    fn send_parts(&mut self, header: &[u8], data: &[u8]);
    /// Returns the sequence number of the packet that was sent last. `None` if it is held back for new keys.
    fn last_sequence(&self) -> Option<u32>;
    /// Answers the packet that was received last with UNIMPLEMENTED (RFC 4253 §11.4).
    fn reply_unimplemented(&mut self);
}

impl PacketSink for crate::transport::Transport {
    fn send(&mut self, payload: &[u8]) {
        Self::send(self, payload);
    }
    fn send_parts(&mut self, header: &[u8], data: &[u8]) {
        Self::send_parts(self, header, data);
    }
    fn last_sequence(&self) -> Option<u32> {
        Self::last_sequence(self)
    }
    fn reply_unimplemented(&mut self) {
        Self::reply_unimplemented(self);
    }
}

/// Limits of one connection, for both directions.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionConfig {
    /// Sizes of the receive windows, in bytes.
    pub window: WindowLimits,
    /// Largest channel payload in one packet, in bytes; for both directions.
    pub max_packet: u32,
    /// Channels that may be open at the same time.
    pub max_channels: usize,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            window: WindowLimits::default(),
            max_packet: 32 * 1024,
            max_channels: 16 * 1024,
        }
    }
}

/// Text of the server that is kept, in bytes.
const MAX_TEXT: usize = 1024;

/// The channels and global requests of one session, from the login to its end. Works on packets and times that its
/// owner passes in.
#[derive(Debug)]
pub struct Connection {
    config: ConnectionConfig,
    channels: ChannelTable,
    pending: PendingRequests,
    forwards: RemoteForwards,
    rtt: RttEstimator,
    /// Limits messages that are not allowed but may be a harmless race or a bug of the server.
    violation_limiter: TokenBucket,
    /// Limits the server's channel requests and global requests: each one may demand a reply of us.
    request_limiter: TokenBucket,
    /// Messages that were not allowed, in the whole session; a status figure, unlike the limiter's tokens.
    violations: u64,
    /// Events for the owner, oldest first. Empty between packets: the owner takes all of them after each call.
    events: VecDeque<ConnectionEvent>,
    /// Earliest time at which a writer has waited too long for credit.
    next_wait_deadline: Option<Instant>,
    interactive: InteractiveDetector,
    /// Largest receive window that a channel has grown to, in bytes.
    largest_window: u32,
}

impl Connection {
    /// A connection without channels, right after authentication.
    pub fn new(config: ConnectionConfig) -> Self {
        Self {
            config,
            channels: ChannelTable::default(),
            pending: PendingRequests::default(),
            forwards: RemoteForwards::default(),
            rtt: RttEstimator::default(),
            // 20 at once and 2 a second: `record_violation` names these figures in its error.
            violation_limiter: TokenBucket::new(20, 2),
            request_limiter: TokenBucket::new(1000, 1000),
            violations: 0,
            events: VecDeque::new(),
            next_wait_deadline: None,
            interactive: InteractiveDetector::default(),
            largest_window: 0,
        }
    }

    /// Takes the oldest event. `None` if there are no more.
    pub fn poll_event(&mut self) -> Option<ConnectionEvent> {
        self.events.pop_front()
    }

    /// Returns the last round trip that a ping measured. `None` before the first answer.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.last()
    }

    /// Records an upper bound for the round trip, measured by an exchange that may have queued at the server.
    pub fn add_rtt_upper_bound(&mut self, took: Duration) {
        self.rtt.add_upper_bound(took);
    }

    /// Returns the number of channels that are in use, including closed ones that still have a reader or writer.
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Returns how many messages of the server were not allowed but did not end the session.
    pub fn violations(&self) -> u64 {
        self.violations
    }

    /// Whether a ping waits for its answer.
    pub fn is_ping_pending(&self) -> bool {
        self.pending.has_ping()
    }

    /// Handles one packet of the server: message number, then body.
    ///
    /// # Errors
    /// [`Error::Protocol`] ends the session: a message that breaks the protocol, or too many violations.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        payload: Bytes,
        out: &mut impl PacketSink,
    ) -> Result<(), Error> {
        let mut body = Reader::new(&payload);
        match body.u8()? {
            message::DATA => self.on_data(now, &payload, out),
            message::WINDOW_ADJUST => {
                let (id, credit) = (body.u32()?, body.u32()?);
                self.on_window_adjust(now, id, credit)
            }
            message::EXTENDED_DATA => {
                let (id, _type, len) = (body.u32()?, body.u32()?, body.string()?.len());
                self.on_extended_data(now, id, len, out)
            }
            message::EOF => self.on_eof(now, body.u32()?),
            message::CLOSE => self.on_close(now, body.u32()?, out),
            message::OPEN => self.on_open(now, body, out),
            message::OPEN_CONFIRMATION => self.on_open_confirmation(now, body, out),
            message::OPEN_FAILURE => self.on_open_failure(body),
            message::CHANNEL_REQUEST => self.on_channel_request(now, body, out),
            message::GLOBAL_REQUEST => self.on_global_request(now, body, out),
            message::REQUEST_SUCCESS => self.on_global_reply(now, Some(body.rest()), out),
            message::REQUEST_FAILURE => self.on_global_reply(now, None, out),
            // We send no channel requests.
            // An answer to nothing. It is only counted, because it changes no state.
            message::CHANNEL_SUCCESS | message::CHANNEL_FAILURE => self.record_violation(now),
            _ => {
                out.reply_unimplemented();
                self.record_violation(now)
            }
        }
    }

    /// Counts a message that is not allowed here. Ends the session if there are too many.
    fn record_violation(&mut self, now: Instant) -> Result<(), Error> {
        self.violations += 1;
        if self.violation_limiter.take(now) {
            Ok(())
        } else {
            Err(protocol_error(
                "more than 20 messages in 10 s that are not allowed",
            ))
        }
    }

    fn on_data(
        &mut self,
        now: Instant,
        payload: &Bytes,
        out: &mut impl PacketSink,
    ) -> Result<(), Error> {
        let mut body = Reader::new(payload.get(1..).unwrap_or_default());
        let id = body.u32()?;
        // A slice of the payload: channel data is not copied.
        let data = payload.slice_ref(body.string()?);
        body.end()?;
        let Some(channel) = self.channels.open_mut(id) else {
            return self.record_violation(now);
        };
        match channel.receive(data) {
            Received::Buffered => self
                .events
                .push_back(ConnectionEvent::Readable(ChannelId(id))),
            Received::Discarded => {
                channel.settle(now, None);
                send_credit(channel, out);
            }
            Received::WindowExceeded => return Err(protocol_error("data past a channel's window")),
            Received::AfterEnd => return self.record_violation(now),
        }
        Ok(())
    }

    fn on_extended_data(
        &mut self,
        now: Instant,
        id: u32,
        len: usize,
        out: &mut impl PacketSink,
    ) -> Result<(), Error> {
        let Some(channel) = self.channels.open_mut(id) else {
            return self.record_violation(now);
        };
        match channel.receive_extended(len) {
            Received::WindowExceeded => return Err(protocol_error("data past a channel's window")),
            Received::AfterEnd => return self.record_violation(now),
            Received::Buffered | Received::Discarded => {
                // Settles what the reader took last, too: a little early, and at most one batch.
                channel.settle(now, None);
                send_credit(channel, out);
            }
        }
        Ok(())
    }

    fn on_window_adjust(&mut self, now: Instant, id: u32, credit: u32) -> Result<(), Error> {
        let min_rtt = self.rtt.min();
        let Some(channel) = self.channels.open_mut(id) else {
            return self.record_violation(now);
        };
        // RFC 4254 §5.2 limits a window to 2^32 - 1 bytes; wrapping around would stall the channel.
        if !channel.send_window.add_credit(now, credit, min_rtt) {
            return Err(protocol_error("a window of 2^32 bytes or more"));
        }
        self.events
            .push_back(ConnectionEvent::Writable(ChannelId(id)));
        Ok(())
    }

    fn on_eof(&mut self, now: Instant, id: u32) -> Result<(), Error> {
        let Some(channel) = self.channels.open_mut(id) else {
            return self.record_violation(now);
        };
        // A second EOF, or one after CLOSE.
        if channel.remote_end > DirectionEnd::Flowing {
            return self.record_violation(now);
        }
        channel.receive_eof();
        self.events
            .push_back(ConnectionEvent::Readable(ChannelId(id)));
        Ok(())
    }

    fn on_close(&mut self, now: Instant, id: u32, out: &mut impl PacketSink) -> Result<(), Error> {
        let Some(channel) = self.channels.open_mut(id) else {
            return self.record_violation(now);
        };
        if channel.remote_end == DirectionEnd::Closed {
            return self.record_violation(now);
        }
        channel.receive_close();
        if channel.local_end < DirectionEnd::Closed {
            // RFC 4254 §5.3: CLOSE is answered with CLOSE.
            channel.local_end = DirectionEnd::Closed;
            out.send(&message::for_channel(message::CLOSE, channel.remote_id));
        }
        self.events
            .push_back(ConnectionEvent::Readable(ChannelId(id)));
        self.events
            .push_back(ConnectionEvent::Writable(ChannelId(id)));
        // Both sides may have closed now: the number is free once no handle refers to it.
        self.release(id);
        Ok(())
    }

    fn on_channel_request(
        &mut self,
        now: Instant,
        mut body: Reader<'_>,
        out: &mut impl PacketSink,
    ) -> Result<(), Error> {
        let id = body.u32()?;
        let _type = body.string()?;
        let wants_reply = body.bool()?;
        // Before the channel is looked up: requests for unknown channels count, too.
        self.limit_requests(now)?;
        let Some(channel) = self.channels.open_mut(id) else {
            return self.record_violation(now);
        };
        // RFC 4254 §5.4: unknown requests are answered with failure. After our CLOSE nothing may be sent on the
        // channel.
        if wants_reply && channel.local_end < DirectionEnd::Closed {
            out.send(&message::for_channel(
                message::CHANNEL_FAILURE,
                channel.remote_id,
            ));
        }
        Ok(())
    }
}

/// Sends WINDOW_ADJUST if credit is due.
fn send_credit(channel: &mut Channel, out: &mut impl PacketSink) {
    if let Some(credit) = channel.take_credit() {
        out.send(&message::window_adjust(channel.remote_id, credit));
    }
}

fn protocol_error(what: &str) -> Error {
    Error::Protocol(what.to_owned())
}

#[cfg(test)]
mod tests;
