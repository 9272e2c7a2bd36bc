//! Opening channels (RFC 4254 §5.1): ours, and those that the server opens for a granted remote forward.

use std::time::Instant;

use super::channel::{Channel, ChannelState, DirectionEnd};
use super::forwards::ForwardMatch;
use super::message::{self, ChannelOpen, ChannelTarget, ForwardedChannel};
use super::recv_window::RecvWindow;
use super::send_window::SendWindow;
use super::{
    ChannelId, Connection, ConnectionEvent, MAX_TEXT, OpenRequest, PacketSink, protocol_error,
};
use crate::error::{Error, bounded};
use crate::wire::Reader;

/// SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254 §5.1): refuses channels that no forward entitles the server to open.
const PROHIBITED: u32 = 1;
/// SSH_OPEN_RESOURCE_SHORTAGE (RFC 4254 §5.1): refuses channels beyond
/// [`ConnectionConfig::max_channels`](super::ConnectionConfig::max_channels).
const SHORTAGE: u32 = 4;
/// Smallest maximum packet size that is accepted, in bytes. No known server announces less, and each payload byte would
/// cost many bytes on the line.
const MIN_MAX_PACKET: u32 = 256;

impl Connection {
    /// Sends CHANNEL_OPEN. `None` if [`ConnectionConfig::max_channels`](super::ConnectionConfig::max_channels) are in
    /// use.
    pub fn open_channel(
        &mut self,
        target: &ChannelTarget,
        now: Instant,
        out: &mut impl PacketSink,
    ) -> Option<ChannelId> {
        if self.channels.len() >= self.config.max_channels {
            return None;
        }
        let recv_window = self.new_recv_window();
        let window = recv_window.available();
        // The send window is known only from the confirmation.
        let send_window = SendWindow::new(0, 0);
        let mut channel = Channel::new(ChannelState::Opening, 0, recv_window, send_window);
        channel.open_sent_at = Some(now);
        let id = self.channels.insert(channel);
        out.send(&message::open(target, id, window, self.config.max_packet));
        Some(ChannelId(id))
    }

    /// The window of a new channel: its share of the largest window that an earlier channel needed on this line, within
    /// what is left of the session's total.
    fn new_recv_window(&self) -> RecvWindow {
        let limits = self.config.window;
        let channels = u32::try_from(self.channels.len() + 1).unwrap_or(u32::MAX);
        // Divided, because many channels share the line that one of them needed the large window for.
        let wanted = (self.largest_window / channels).max(limits.initial);
        let in_use = self
            .channels
            .iter()
            .map(|channel| u64::from(channel.recv_window.target()))
            .sum();
        RecvWindow::new(limits, limits.initial_for(wanted, in_use))
    }

    pub(super) fn on_open_confirmation(
        &mut self,
        now: Instant,
        mut body: Reader<'_>,
        out: &mut impl PacketSink,
    ) -> Result<(), Error> {
        let (id, remote_id, window, max_packet) =
            (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        let our_max_packet = self.config.max_packet;
        let Some(channel) = self
            .channels
            .get_mut(id)
            .filter(|channel| channel.state == ChannelState::Opening)
        else {
            return Err(protocol_error(
                // A second confirmation is refused here, too: it would give the channel another number and a new
                // window.
                "a confirmation of a channel that was not requested",
            ));
        };
        let Some(send_window) = new_send_window(window, max_packet, our_max_packet) else {
            return Err(protocol_error("a channel with a tiny maximum packet size"));
        };
        if let Some(sent_at) = channel.open_sent_at {
            // The server connects to the target first, so that the time is a bound and no measurement.
            self.rtt
                .add_upper_bound(now.saturating_duration_since(sent_at));
        }
        channel.remote_id = remote_id;
        channel.state = ChannelState::Open;
        channel.send_window = send_window;
        if channel.reader_dropped && channel.writer_dropped {
            // The caller gave up waiting.
            channel.local_end = DirectionEnd::Closed;
            out.send(&message::for_channel(message::CLOSE, remote_id));
        } else {
            self.events
                .push_back(ConnectionEvent::Opened(ChannelId(id)));
        }
        Ok(())
    }

    pub(super) fn on_open_failure(&mut self, mut body: Reader<'_>) -> Result<(), Error> {
        let (id, code, text) = (body.u32()?, body.u32()?, body.string()?);
        let channel = match self.channels.get_mut(id) {
            Some(channel) if channel.state == ChannelState::Opening => channel,
            _ => {
                return Err(protocol_error(
                    "a refusal of a channel that was not requested",
                ));
            }
        };
        if channel.reader_dropped && channel.writer_dropped {
            // The caller gave up waiting, and the server has nothing open.
            self.channels.remove(id);
            return Ok(());
        }
        // The number stays in use until the caller has dropped its handles.
        channel.state = ChannelState::Open;
        channel.remote_end = DirectionEnd::Closed;
        channel.local_end = DirectionEnd::Closed;
        self.events.push_back(ConnectionEvent::OpenFailed {
            channel: ChannelId(id),
            code,
            text: bounded(text, MAX_TEXT),
        });
        Ok(())
    }

    /// Handles CHANNEL_OPEN: offers the channel to the caller if it belongs to a granted forward, and refuses it
    /// otherwise.
    pub(super) fn on_open(
        &mut self,
        now: Instant,
        body: Reader<'_>,
        out: &mut impl PacketSink,
    ) -> Result<(), Error> {
        let mut open = ChannelOpen::read(body)?;
        let forwarded = ForwardedChannel::read(open.channel_type, &mut open.type_fields)?;
        let Some(forwarded) = forwarded else {
            // session, x11, auth-agent@openssh.com, direct-*: this client never requests any of them.
            refuse(out, open.sender_id, PROHIBITED, "not offered");
            return self.record_violation(now);
        };
        let (listen, bound_port) = match self.forwards.find(&forwarded) {
            ForwardMatch::Active(listen, bound_port) => (listen, bound_port),
            // No violation: the connection may have arrived before the server read our cancel request.
            ForwardMatch::Cancelled => {
                refuse(out, open.sender_id, PROHIBITED, "not forwarded");
                return Ok(());
            }
            ForwardMatch::Unknown => {
                refuse(out, open.sender_id, PROHIBITED, "not forwarded");
                return self.record_violation(now);
            }
        };
        // Checked before the channel exists: refusing it afterwards would have to undo it.
        let send_window = new_send_window(open.window, open.max_packet, self.config.max_packet);
        let Some(send_window) = send_window else {
            return Err(protocol_error("a channel with a tiny maximum packet size"));
        };
        if self.channels.len() >= self.config.max_channels {
            refuse(out, open.sender_id, SHORTAGE, "too many channels");
            return Ok(());
        }
        let id = self.channels.insert(Channel::new(
            ChannelState::Offered,
            open.sender_id,
            self.new_recv_window(),
            send_window,
        ));
        self.events
            .push_back(ConnectionEvent::Incoming(OpenRequest {
                channel: ChannelId(id),
                listen,
                bound_port,
                originator: originator(&forwarded),
            }));
        Ok(())
    }

    /// Confirms a channel that the server opened.
    pub fn accept_channel(&mut self, id: ChannelId, out: &mut impl PacketSink) {
        let max_packet = self.config.max_packet;
        if let Some(channel) = self.offered_mut(id) {
            channel.state = ChannelState::Open;
            let window = channel.recv_window.available();
            out.send(&message::open_confirmation(
                channel.remote_id,
                id.0,
                window,
                max_packet,
            ));
        }
    }

    /// Refuses a channel that the server opened, with a reason code of RFC 4254 §5.1.
    pub fn refuse_channel(
        &mut self,
        id: ChannelId,
        code: u32,
        text: &str,
        out: &mut impl PacketSink,
    ) {
        if let Some(channel) = self.offered_mut(id) {
            refuse(out, channel.remote_id, code, text);
            self.channels.remove(id.0);
        }
    }

    fn offered_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels
            .get_mut(id.0)
            .filter(|channel| channel.state == ChannelState::Offered)
    }
}

fn refuse(out: &mut impl PacketSink, remote_id: u32, code: u32, text: &str) {
    out.send(&message::open_failure(remote_id, code, text));
}

/// The server's window with packets no larger than ours. `None` if its maximum packet size is too small.
fn new_send_window(window: u32, max_packet: u32, our_max_packet: u32) -> Option<SendWindow> {
    // The smaller of both maxima: a server that announces 4 GiB must not make us seal packets that we would refuse.
    (max_packet >= MIN_MAX_PACKET).then(|| SendWindow::new(window, max_packet.min(our_max_packet)))
}

/// `address:port` of the connecting side, with brackets around an IPv6 address. Empty for a Unix socket.
fn originator(forwarded: &ForwardedChannel<'_>) -> String {
    let ForwardedChannel::Tcp {
        originator_address,
        originator_port: port,
        ..
    } = forwarded
    else {
        return String::new();
    };
    // The server's claim, for the log only; it never selects a target.
    let address = bounded(originator_address, MAX_TEXT);
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}
