//! Opening and using channels (RFC 4254 §5): ours, and those the server may open for an active forward.

use std::time::Instant;

use bytes::Bytes;

use super::channel::{Channel, End, Stage, Taken};
use super::global::Belongs;
use super::message::{self, Forwarded, Open, Target};
use super::pace::SendWindow;
use super::window::ReceiveWindow;
use super::{ChannelId, Connection, Event, Incoming, Outbox, TEXT, broken, credit};
use crate::error::{Error, bounded};
use crate::wire::Reader;

/// SSH_OPEN_ADMINISTRATIVELY_PROHIBITED.
const PROHIBITED: u32 = 1;
/// SSH_OPEN_RESOURCE_SHORTAGE.
const SHORTAGE: u32 = 4;
/// No working peer announces less; every payload byte would cost many on the line.
const LEAST_PACKET: u32 = 256;

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// The window is used up: wait for [`Event::Writable`].
    NoWindow,
    /// The peer closed the channel, or it never stood.
    Closed,
    /// We ended this direction.
    Ended,
}

impl Connection {
    /// Asks for a channel; `None` where too many stand already.
    pub fn open(
        &mut self,
        target: &Target,
        now: Instant,
        out: &mut impl Outbox,
    ) -> Option<ChannelId> {
        if self.channels.len() >= self.settings.channels {
            return None;
        }
        let receive = self.receive_window();
        let window = receive.open();
        let mut channel = Channel::new(Stage::Opening, 0, receive, SendWindow::new(0, 0));
        channel.asked = Some(now);
        let id = self.channels.insert(channel);
        out.send(&message::open(target, id, window, self.settings.packet));
        Some(ChannelId(id))
    }

    /// What a new channel begins with: its share of what an earlier one was found to need on this line, and of
    /// what is left for all of them.
    fn receive_window(&self) -> ReceiveWindow {
        let limits = self.settings.window;
        let among = u32::try_from(self.channels.len() + 1).unwrap_or(u32::MAX);
        let wish = (self.learned / among).max(limits.initial);
        let given = self
            .channels
            .iter()
            .map(|channel| u64::from(channel.receive.target()));
        ReceiveWindow::new(limits, limits.start(wish, given.sum()))
    }

    pub(super) fn confirmed(
        &mut self,
        now: Instant,
        mut body: Reader<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), Error> {
        let (id, remote, window, packet) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        let most = self.settings.packet;
        let Some(channel) = self
            .channels
            .get_mut(id)
            .filter(|channel| channel.stage == Stage::Opening)
        else {
            return Err(broken("a channel confirmed that was not asked for"));
        };
        let Some(send) = send_window(window, packet, most) else {
            return Err(broken("a channel that takes next to nothing in a packet"));
        };
        if let Some(asked) = channel.asked {
            self.rtt.add_bound(now.saturating_duration_since(asked));
        }
        channel.remote = remote;
        channel.stage = Stage::Open;
        channel.send = send;
        if channel.unread && channel.unwritten {
            channel.ours = End::Close;
            out.send(&message::of_channel(message::CLOSE, remote));
        } else {
            self.events.push_back(Event::Opened(ChannelId(id)));
        }
        Ok(())
    }

    pub(super) fn refused(&mut self, mut body: Reader<'_>) -> Result<(), Error> {
        let (id, code, text) = (body.u32()?, body.u32()?, body.string()?);
        let abandoned = match self.channels.get_mut(id) {
            Some(channel) if channel.stage == Stage::Opening => channel.unread && channel.unwritten,
            _ => return Err(broken("a channel refused that was not asked for")),
        };
        if abandoned {
            self.channels.remove(id);
        } else {
            // The number stays taken until whoever asked has let go of it.
            if let Some(channel) = self.channels.get_mut(id) {
                channel.stage = Stage::Open;
                channel.theirs = End::Close;
                channel.ours = End::Close;
            }
            self.events.push_back(Event::Refused {
                channel: ChannelId(id),
                code,
                text: bounded(text, TEXT),
            });
        }
        Ok(())
    }

    pub(super) fn open_received(
        &mut self,
        now: Instant,
        body: Reader<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), Error> {
        let mut open = Open::read(body)?;
        let Some(forwarded) = Forwarded::read(open.kind, &mut open.rest)? else {
            // Session, x11, auth-agent, direct-*: nobody asked for any of them.
            out.send(&message::open_failure(
                open.sender,
                PROHIBITED,
                "not offered",
            ));
            return self.offend(now);
        };
        let (listen, port) = match self.forwards.find(&forwarded) {
            Belongs::To(listen, port) => (listen, port),
            belongs => {
                out.send(&message::open_failure(
                    open.sender,
                    PROHIBITED,
                    "not forwarded",
                ));
                return if belongs == Belongs::Late {
                    Ok(())
                } else {
                    self.offend(now)
                };
            }
        };
        let Some(send) = send_window(open.window, open.packet, self.settings.packet) else {
            return Err(broken("a channel that takes next to nothing in a packet"));
        };
        if self.channels.len() >= self.settings.channels {
            out.send(&message::open_failure(
                open.sender,
                SHORTAGE,
                "too many channels",
            ));
            return Ok(());
        }
        let receive = self.receive_window();
        let id = self
            .channels
            .insert(Channel::new(Stage::Offered, open.sender, receive, send));
        self.events.push_back(Event::Incoming(Incoming {
            channel: ChannelId(id),
            listen,
            port,
            originator: match forwarded {
                Forwarded::Tcp {
                    from, from_port, ..
                } => originator(from, from_port),
                Forwarded::Unix { .. } => String::new(),
            },
        }));
        Ok(())
    }

    /// Takes a channel that the server opened.
    pub fn accept(&mut self, id: ChannelId, out: &mut impl Outbox) {
        let packet = self.settings.packet;
        if let Some(channel) = self.offered(id) {
            channel.stage = Stage::Open;
            let window = channel.receive.open();
            out.send(&message::open_confirmation(
                channel.remote,
                id.0,
                window,
                packet,
            ));
        }
    }

    /// Refuses a channel that the server opened, with RFC 4254 §5.1's reason code.
    pub fn refuse(&mut self, id: ChannelId, code: u32, text: &str, out: &mut impl Outbox) {
        if let Some(channel) = self.offered(id) {
            out.send(&message::open_failure(channel.remote, code, text));
            self.channels.remove(id.0);
        }
    }

    fn offered(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels
            .get_mut(id.0)
            .filter(|channel| channel.stage == Stage::Offered)
    }

    /// Writes as much of `data` as one packet may bear now; how much.
    ///
    /// # Errors
    /// Why nothing may be written. Writing nothing is always allowed while the channel is.
    pub fn write(
        &mut self,
        id: ChannelId,
        data: &[u8],
        out: &mut impl Outbox,
    ) -> Result<usize, Unwritten> {
        let channel = self.channels.get_mut(id.0).ok_or(Unwritten::Closed)?;
        if channel.theirs == End::Close {
            return Err(Unwritten::Closed);
        }
        if !channel.writable() {
            return Err(Unwritten::Ended);
        }
        if data.is_empty() {
            return Ok(0);
        }
        let len = channel.send.allows(data.len());
        let (Some(data), Ok(wire)) = (data.get(..len), u32::try_from(len)) else {
            return Err(Unwritten::NoWindow);
        };
        if len == 0 {
            return Err(Unwritten::NoWindow);
        }
        channel.send.spend(len);
        out.send_data(&message::data_header(channel.remote, wire), data);
        Ok(len)
    }

    /// What [`Connection::write`] would do with `len` bytes; where it is nothing for want of window, the writer
    /// waits for [`Event::Writable`].
    ///
    /// # Errors
    /// As there.
    pub fn may_write(
        &mut self,
        id: ChannelId,
        len: usize,
        now: Instant,
    ) -> Result<usize, Unwritten> {
        let rtt = self.rtt.least();
        let tight = self.small.is_beside(id.0, now, rtt);
        let channel = self.channels.get_mut(id.0).ok_or(Unwritten::Closed)?;
        if channel.theirs == End::Close {
            return Err(Unwritten::Closed);
        }
        if !channel.writable() {
            return Err(Unwritten::Ended);
        }
        channel.send.tighten(tight);
        self.small.note(id.0, len, &channel.send, now);
        match channel.send.allows(len) {
            0 if len > 0 => {
                if let Some(until) = channel.send.wait(now, rtt) {
                    self.patience = Some(self.patience.map_or(until, |known| known.min(until)));
                }
                Err(Unwritten::NoWindow)
            }
            len => Ok(len),
        }
    }

    /// When [`Connection::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.patience
    }

    /// Lets channels go on that waited for their pace too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.patience.is_none_or(|until| now < until) {
            return;
        }
        let rtt = self.rtt.least();
        let mut next: Option<Instant> = None;
        for (id, channel) in self.channels.iter_mut() {
            if channel.send.give_up(now, rtt) {
                self.events.push_back(Event::Writable(ChannelId(id)));
            } else if let Some(until) = channel.send.waits_until(rtt) {
                next = Some(next.map_or(until, |known| known.min(until)));
            }
        }
        self.patience = next;
    }

    /// Ends our direction: the server will read to the end of what was written.
    pub fn eof(&mut self, id: ChannelId, out: &mut impl Outbox) {
        if let Some(channel) = self.channels.get_mut(id.0)
            && channel.writable()
        {
            channel.ours = End::Eof;
            out.send(&message::of_channel(message::EOF, channel.remote));
        }
    }

    /// Takes what has come in. What was taken before counts as consumed by this call.
    pub fn take(&mut self, id: ChannelId, now: Instant, out: &mut impl Outbox) -> Taken {
        let rtt = self.rtt.least();
        let Some(channel) = self.channels.get_mut(id.0) else {
            return Taken::Reset;
        };
        let taken = channel.take(now, rtt);
        self.learned = self.learned.max(channel.receive.target());
        credit(channel, out);
        taken
    }

    /// Takes one more piece in the same turn.
    pub fn take_more(&mut self, id: ChannelId) -> Option<Bytes> {
        self.channels.get_mut(id.0)?.take_more()
    }

    /// Gives back the end of what was taken last.
    pub fn give_back(&mut self, id: ChannelId, rest: Bytes) {
        if let Some(channel) = self.channels.get_mut(id.0) {
            channel.give_back(rest);
        }
    }

    /// Whether the server has closed the channel.
    pub fn is_closed(&mut self, id: ChannelId) -> bool {
        self.channels
            .get_mut(id.0)
            .is_none_or(|channel| channel.theirs == End::Close)
    }

    /// Nobody reads any more; what comes in is thrown away.
    pub fn drop_reader(&mut self, id: ChannelId, now: Instant, out: &mut impl Outbox) {
        if let Some(channel) = self.channels.get_mut(id.0) {
            channel.abandon_reading();
            if channel.unwritten {
                self.close(id, out);
            } else {
                channel.settle(now, None);
                credit(channel, out);
            }
        }
    }

    /// Nobody writes any more. That is no EOF: whoever wants one sends it first.
    pub fn drop_writer(&mut self, id: ChannelId, out: &mut impl Outbox) {
        if let Some(channel) = self.channels.get_mut(id.0) {
            channel.unwritten = true;
            if channel.unread {
                self.close(id, out);
            }
        }
    }

    fn close(&mut self, id: ChannelId, out: &mut impl Outbox) {
        if let Some(channel) = self.channels.get_mut(id.0)
            && channel.stage == Stage::Open
            && channel.ours < End::Close
        {
            channel.ours = End::Close;
            out.send(&message::of_channel(message::CLOSE, channel.remote));
        }
        self.release(id.0);
    }

    /// Frees the number once nothing refers to it.
    pub(super) fn release(&mut self, id: u32) {
        if self
            .channels
            .get_mut(id)
            .is_some_and(|channel| channel.is_over())
        {
            self.channels.remove(id);
        }
    }

    /// The bytes that wait for readers, of all channels.
    pub fn waiting(&self) -> usize {
        self.channels.iter().map(Channel::waiting).sum()
    }
}

/// The window as the peer gives it, its packets bounded by ours.
fn send_window(window: u32, packet: u32, most: u32) -> Option<SendWindow> {
    (packet >= LEAST_PACKET).then(|| SendWindow::new(window, packet.min(most)))
}

/// `address:port`, brackets around an IPv6 address.
fn originator(address: &[u8], port: u32) -> String {
    let address = bounded(address, TEXT);
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}
