//! What a received packet does to the session: each event of the transport and of the connection goes to the task that
//! waits for it. Runs under the lock of [`SessionState`], so that nothing here waits.

use std::time::Instant;

use bytes::Bytes;

use super::state::{OpenFailure, SessionPhase, SessionState};
use crate::connection::{ChannelId, ConnectionEvent, OpenRequest};
use crate::error::{Error, Party};
use crate::transport::TransportEvent;

/// Bytes of output at which the session ends: only a server that requests replies and does not read them causes it.
const OUTPUT_LIMIT: usize = 4 * 1024 * 1024;
/// SSH_OPEN_RESOURCE_SHORTAGE (RFC 4254 §5.1).
const RESOURCE_SHORTAGE: u32 = 4;

impl SessionState {
    /// Processes all packets in the transport's read buffer.
    pub(super) fn process_input(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(event) = self.transport.poll_event(now)? {
            self.handle_event(now, event)?;
        }
        // Checked after a batch of input and not per packet: one read is 128 KiB at most, and its replies are small.
        if self.transport.unsent_bytes() > OUTPUT_LIMIT {
            return Err(Error::Protocol(
                "it requests replies and does not read them".to_owned(),
            ));
        }
        Ok(())
    }

    fn handle_event(&mut self, now: Instant, event: TransportEvent) -> Result<(), Error> {
        if let TransportEvent::Disconnected { code, text } = event {
            let by = Party::Server;
            return Err(Error::Disconnected { code, text, by });
        }
        match &mut self.phase {
            SessionPhase::Handshake(handshake) => {
                match event {
                    TransportEvent::Ident(ident) => handshake.ident = ident,
                    TransportEvent::HostKey(offer) => handshake.host_key = Some(offer),
                    TransportEvent::Ready(negotiated) => handshake.ready = Some(negotiated),
                    // The caller may be asking the user and reads nothing meanwhile: without a bound the server could
                    // fill our memory.
                    TransportEvent::Packet(_) if handshake.is_full() => {
                        let what = "too many messages before the login";
                        return Err(Error::Protocol(what.to_owned()));
                    }
                    TransportEvent::Packet(payload) => handshake.replies.push_back(payload),
                    _ => return Ok(()),
                }
                self.wake_list.push(handshake.waker.take());
                Ok(())
            }
            SessionPhase::Established { .. } => {
                match event {
                    TransportEvent::Packet(payload) => self.handle_packet(now, payload)?,
                    TransportEvent::Unimplemented(sequence) => {
                        self.connection
                            .handle_unimplemented(now, sequence, &mut self.transport);
                        self.dispatch_events();
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }

    /// Handles one packet of an established session.
    pub(super) fn handle_packet(&mut self, now: Instant, payload: Bytes) -> Result<(), Error> {
        let handled = self
            .connection
            .handle_packet(now, payload, &mut self.transport);
        self.dispatch_events();
        handled
    }

    /// Handles the deadlines of the connection and of the transport that have passed.
    pub(super) fn handle_timeouts(&mut self, now: Instant) -> Result<(), Error> {
        self.connection.handle_timeout(now);
        self.dispatch_events();
        // The connection's timers come first: they end no session, and a transport that times out does.
        match self.transport.poll_timeout() {
            Some(deadline) if deadline <= now => self.transport.handle_timeout(now),
            _ => Ok(()),
        }
    }

    fn dispatch_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.dispatch(event);
        }
    }

    /// Wakes or answers the task that waits for `event`.
    fn dispatch(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Readable(id) => {
                let waker = self.waiters(id).and_then(|waiters| waiters.reader.take());
                self.wake_list.push(waker);
            }
            ConnectionEvent::Writable(id) => {
                // A close wakes writers as well, because their next write fails.
                let closed = self.connection.is_closed(id);
                let Some(waiters) = self.waiters.get_mut(id.0 as usize) else {
                    return;
                };
                self.wake_list.push(waiters.writer.take());
                if closed {
                    self.wake_list.append(&mut waiters.close_watchers);
                }
            }
            ConnectionEvent::Opened(id) => self.finish_open(id, Ok(())),
            ConnectionEvent::OpenFailed {
                channel,
                code,
                text,
            } => self.finish_open(channel, Err((code, text))),
            ConnectionEvent::Incoming(request) => self.queue_incoming(request),
            ConnectionEvent::Reply(id, reply) => {
                if let Some(requester) = self.pending_requests.remove(&id) {
                    let _ = requester.send(reply);
                }
            }
            ConnectionEvent::HostKeys(keys) => {
                self.host_keys.send_replace(keys);
            }
        }
    }

    fn finish_open(&mut self, id: ChannelId, result: Result<(), OpenFailure>) {
        if let Some(opener) = self.waiters(id).and_then(|waiters| waiters.opener.take()) {
            let _ = opener.send(result);
        }
    }

    /// Passes on a channel that the server opened. Never waits: a full queue refuses the channel, because waiting
    /// here would hold up every other channel.
    fn queue_incoming(&mut self, request: OpenRequest) {
        let id = request.channel;
        self.reset_waiters(id);
        let SessionPhase::Established { incoming } = &self.phase else {
            return;
        };
        if incoming.try_send(request).is_err() {
            self.connection.refuse_channel(
                id,
                RESOURCE_SHORTAGE,
                "too many at once",
                &mut self.transport,
            );
        }
    }
}
