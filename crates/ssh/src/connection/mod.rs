//! RFC 4254: channels, their windows, and global requests.
//!
//! Pure: it is given packets and the time, writes to an [`Outbox`] and tells [`Event`]s. What a channel's
//! reader has not consumed gives the server no credit, so one that stands still costs one window and
//! nothing of anyone else's.

mod channel;
mod flood;
mod global;
mod inbox;
mod message;
mod open;
mod pace;
mod request;
mod rtt;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_flow;
#[cfg(test)]
mod tests_random;
mod window;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::Error;
use crate::wire::Reader;
pub use channel::Taken;
use channel::{Channel, End, Received};
use flood::Meter;
use global::{Forwards, Pending};
pub use global::{Reply, RequestId};
pub use message::{Listen, Target};
pub use open::Unwritten;
pub(crate) use pace::SMALL;
use pace::Small;
use rtt::RoundTrips;
use table::Table;
pub use window::Limits;

/// Our own number of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub(crate) u32);

/// Takes the messages that go to the server.
pub trait Outbox {
    /// One message.
    fn send(&mut self, payload: &[u8]);
    /// One message in two pieces.
    fn send_data(&mut self, header: &[u8], data: &[u8]);
    /// The sequence number of the message sent last, where that is known.
    fn sent(&self) -> Option<u32>;
    /// Answers the packet received last with UNIMPLEMENTED (RFC 4253 §11.4).
    fn unimplemented(&mut self);
}

impl Outbox for crate::transport::Transport {
    fn send(&mut self, payload: &[u8]) {
        Self::send(self, payload);
    }
    fn send_data(&mut self, header: &[u8], data: &[u8]) {
        Self::send_data(self, header, data);
    }
    fn sent(&self) -> Option<u32> {
        Self::sent(self)
    }
    fn unimplemented(&mut self) {
        Self::unimplemented(self);
    }
}

/// What a connection is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The windows we give.
    pub window: Limits,
    /// The largest payload either side puts in one packet.
    pub packet: u32,
    /// As many channels at once.
    pub channels: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: Limits::default(),
            packet: 32 * 1024,
            channels: 16 * 1024,
        }
    }
}

/// Something that the floors above want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A channel that we opened stands.
    Opened(ChannelId),
    /// The server did not open it: let go of it.
    Refused {
        /// Which one.
        channel: ChannelId,
        /// RFC 4254 §5.1's reason.
        code: u32,
        /// The server's text, cut to 1 KiB and not escaped.
        text: String,
    },
    /// There is something to read, be it an end.
    Readable(ChannelId),
    /// There is window to write, or none to wait for any more.
    Writable(ChannelId),
    /// The server opened a channel for a forward: accept or refuse it.
    Incoming(Incoming),
    /// A request of ours was answered.
    Reply(RequestId, Reply),
    /// The server's host keys (OpenSSH PROTOCOL §2.5), as it says; nothing is proven.
    HostKeys(Vec<Bytes>),
}

/// A channel that the server opened for one of our forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Its number.
    pub channel: ChannelId,
    /// The forward, as it was asked for.
    pub listen: Listen,
    /// The port really bound; 0 for a Unix socket.
    pub port: u16,
    /// Who connected, as the server says: never trusted. Empty for a Unix socket.
    pub originator: String,
}

/// The longest foreign text that is kept.
const TEXT: usize = 1024;

/// All channels and requests of one session.
#[derive(Debug)]
pub struct Connection {
    settings: Settings,
    channels: Table,
    pending: Pending,
    forwards: Forwards,
    rtt: RoundTrips,
    violations: Meter,
    requests: Meter,
    offences: u64,
    events: VecDeque<Event>,
    /// When a channel that waits for its pace is looked at again.
    patience: Option<Instant>,
    small: Small,
    /// The largest window that a channel was found to need.
    learned: u32,
}

impl Connection {
    /// A connection without channels.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            channels: Table::default(),
            pending: Pending::default(),
            forwards: Forwards::default(),
            rtt: RoundTrips::default(),
            violations: Meter::new(20, Duration::from_secs(10)),
            requests: Meter::new(1000, Duration::from_secs(1)),
            offences: 0,
            events: VecDeque::new(),
            patience: None,
            small: Small::default(),
            learned: 0,
        }
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The last round trip that was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.last()
    }

    /// Tells of something else that took a round trip and perhaps more.
    pub fn took(&mut self, time: Duration) {
        self.rtt.add_bound(time);
    }

    /// The channels that are known, ended ones that nobody has let go of included.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// How often the server did what it must not.
    pub fn offences(&self) -> u64 {
        self.offences
    }

    /// Whether a ping waits for its answer.
    pub fn pinging(&self) -> bool {
        self.pending.pinging()
    }

    /// Takes one packet in.
    ///
    /// # Errors
    /// What ends the session: a message that breaks the protocol, or too many that bend it.
    pub fn handle(
        &mut self,
        now: Instant,
        payload: Bytes,
        out: &mut impl Outbox,
    ) -> Result<(), Error> {
        let mut body = Reader::new(&payload);
        match body.u8()? {
            message::DATA => self.data(now, &payload, out),
            message::WINDOW_ADJUST => {
                let (id, credit) = (body.u32()?, body.u32()?);
                self.window_adjust(now, id, credit)
            }
            message::EXTENDED_DATA => {
                let (id, _, len) = (body.u32()?, body.u32()?, body.string()?.len());
                self.extended_data(now, id, len, out)
            }
            message::EOF => self.eof_received(now, body.u32()?),
            message::CLOSE => self.close_received(now, body.u32()?, out),
            message::OPEN => self.open_received(now, body, out),
            message::OPEN_CONFIRMATION => self.confirmed(now, body, out),
            message::OPEN_FAILURE => self.refused(body),
            message::CHANNEL_REQUEST => self.channel_request(now, body, out),
            message::GLOBAL_REQUEST => self.global_request(now, body, out),
            message::REQUEST_SUCCESS => self.answered(now, Some(body.rest()), out),
            message::REQUEST_FAILURE => self.answered(now, None, out),
            message::CHANNEL_SUCCESS | message::CHANNEL_FAILURE => self.offend(now),
            _ => {
                out.unimplemented();
                self.offend(now)
            }
        }
    }

    /// Counts what the server must not do, and ends the session when it does it on and on.
    fn offend(&mut self, now: Instant) -> Result<(), Error> {
        self.offences += 1;
        if self.violations.count(now) {
            Ok(())
        } else {
            Err(broken("more than 20 messages in 10 s that nothing allows"))
        }
    }

    fn data(&mut self, now: Instant, payload: &Bytes, out: &mut impl Outbox) -> Result<(), Error> {
        let mut body = Reader::new(payload.get(1..).unwrap_or_default());
        let id = body.u32()?;
        let data = payload.slice_ref(body.string()?);
        body.end()?;
        let Some(channel) = self.channels.standing(id) else {
            return self.offend(now);
        };
        match channel.receive(data) {
            Received::Kept => self.events.push_back(Event::Readable(ChannelId(id))),
            Received::Dropped => {
                channel.settle(now, None);
                credit(channel, out);
            }
            Received::PastWindow => return Err(broken("data past a channel's window")),
            Received::AfterEnd => return self.offend(now),
        }
        Ok(())
    }

    fn extended_data(
        &mut self,
        now: Instant,
        id: u32,
        len: usize,
        out: &mut impl Outbox,
    ) -> Result<(), Error> {
        let Some(channel) = self.channels.standing(id) else {
            return self.offend(now);
        };
        match channel.receive_unwanted(len) {
            Received::PastWindow => return Err(broken("data past a channel's window")),
            Received::AfterEnd => return self.offend(now),
            Received::Kept | Received::Dropped => {
                // What the reader holds is settled with it: a little early, and at most one batch.
                channel.settle(now, None);
                credit(channel, out);
            }
        }
        Ok(())
    }

    fn window_adjust(&mut self, now: Instant, id: u32, credit: u32) -> Result<(), Error> {
        let rtt = self.rtt.least();
        let Some(channel) = self.channels.standing(id) else {
            return self.offend(now);
        };
        if !channel.send.extend(now, credit, rtt) {
            return Err(broken("a window of 2^32 bytes or more"));
        }
        self.events.push_back(Event::Writable(ChannelId(id)));
        Ok(())
    }

    fn eof_received(&mut self, now: Instant, id: u32) -> Result<(), Error> {
        let Some(channel) = self.channels.standing(id) else {
            return self.offend(now);
        };
        if channel.theirs > End::None {
            return self.offend(now);
        }
        channel.receive_eof();
        self.events.push_back(Event::Readable(ChannelId(id)));
        Ok(())
    }

    fn close_received(
        &mut self,
        now: Instant,
        id: u32,
        out: &mut impl Outbox,
    ) -> Result<(), Error> {
        let Some(channel) = self.channels.standing(id) else {
            return self.offend(now);
        };
        if channel.theirs == End::Close {
            return self.offend(now);
        }
        channel.receive_close();
        if channel.ours < End::Close {
            channel.ours = End::Close;
            out.send(&message::of_channel(message::CLOSE, channel.remote));
        }
        self.events.push_back(Event::Readable(ChannelId(id)));
        self.events.push_back(Event::Writable(ChannelId(id)));
        self.release(id);
        Ok(())
    }

    fn channel_request(
        &mut self,
        now: Instant,
        mut body: Reader<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), Error> {
        let id = body.u32()?;
        body.string()?;
        let wants_reply = body.bool()?;
        self.meter_request(now)?;
        let Some(channel) = self.channels.standing(id) else {
            return self.offend(now);
        };
        if wants_reply && channel.ours < End::Close {
            out.send(&message::of_channel(
                message::CHANNEL_FAILURE,
                channel.remote,
            ));
        }
        Ok(())
    }
}

/// Sends what credit is due.
fn credit(channel: &mut Channel, out: &mut impl Outbox) {
    if let Some(due) = channel.credit() {
        out.send(&message::window_adjust(channel.remote, due));
    }
}

fn broken(what: &str) -> Error {
    Error::Protocol(what.to_owned())
}
