//! Global requests in both directions (RFC 4254 §4 and §7.1, OpenSSH PROTOCOL §2.5 and §2.9).

use std::time::Instant;

use bytes::Bytes;

use super::forwards::RemoteForwards;
use super::message::{self, RemoteListen};
use super::pending::{GlobalReply, GlobalRequest, PendingRequests, RequestId};
use super::{Connection, ConnectionEvent, PacketSink, protocol_error};
use crate::error::Error;
use crate::wire::Reader;

/// Host keys that one announcement may hold.
const MAX_HOST_KEYS: usize = 64;

impl Connection {
    /// Counts a request of the server, of a channel or global.
    pub(super) fn limit_requests(&mut self, now: Instant) -> Result<(), Error> {
        if self.request_limiter.take(now) {
            Ok(())
        } else {
            Err(protocol_error("more than 1000 requests in a second"))
        }
    }

    pub(super) fn on_global_request(
        &mut self,
        now: Instant,
        mut body: Reader<'_>,
        out: &mut impl PacketSink,
    ) -> Result<(), Error> {
        let name = body.string()?;
        let wants_reply = body.bool()?;
        self.limit_requests(now)?;
        // The only request of a server that means something to a client that forwards; all others are refused.
        if name == b"hostkeys-00@openssh.com" {
            self.on_host_keys(body)?;
        }
        if wants_reply {
            // Also for keepalive@openssh.com: any answer shows that the client is alive.
            out.send(&[message::REQUEST_FAILURE]);
        }
        Ok(())
    }

    fn on_host_keys(&mut self, mut body: Reader<'_>) -> Result<(), Error> {
        let mut keys = Vec::new();
        while !body.is_empty() {
            if keys.len() == MAX_HOST_KEYS {
                return Err(protocol_error("more than 64 host keys"));
            }
            // Copied: a slice would keep the whole read block alive as long as the keys are watched.
            keys.push(Bytes::copy_from_slice(body.string()?));
        }
        self.events.push_back(ConnectionEvent::HostKeys(keys));
        Ok(())
    }

    /// Handles REQUEST_SUCCESS, with its body, and REQUEST_FAILURE, with `None`.
    pub(super) fn on_global_reply(
        &mut self,
        now: Instant,
        success: Option<&[u8]>,
        out: &mut impl PacketSink,
    ) -> Result<(), Error> {
        // Ends the session: from here on it would not be known which answer belongs to which request.
        let Some(request) = self.pending.pop() else {
            return Err(protocol_error("an answer to a request that was not made"));
        };
        self.settle_request(now, request, success, out);
        Ok(())
    }

    /// Handles UNIMPLEMENTED for our packet with this sequence number. If it was a global request, this is its
    /// answer: some servers answer unknown requests like this, and it shows that they are alive.
    pub fn handle_unimplemented(&mut self, now: Instant, sequence: u32, out: &mut impl PacketSink) {
        if let Some(request) = self.pending.take_by_sequence(sequence) {
            self.settle_request(now, request, None, out);
        }
    }

    fn settle_request(
        &mut self,
        now: Instant,
        (id, request): (RequestId, GlobalRequest),
        success: Option<&[u8]>,
        out: &mut impl PacketSink,
    ) {
        let reply = match (request, success) {
            // Success or failure: OpenSSH answers keepalive@openssh.com with failure.
            (GlobalRequest::Ping(sent_at), _) => {
                let rtt = now.saturating_duration_since(sent_at);
                self.rtt.add(rtt);
                GlobalReply::Pong(rtt)
            }
            (GlobalRequest::CancelForward(listen), success) => {
                // Also after a refusal: the server does not listen there, so that there is nothing left to refuse
                // channels for.
                self.forwards.remove_cancelled(&listen);
                success.map_or(GlobalReply::Refused, |_| GlobalReply::Cancelled)
            }
            (_, None) => GlobalReply::Refused,
            (GlobalRequest::Forward { listen, abandoned }, Some(body)) => {
                let reply = self.forwards.grant(listen.clone(), body);
                // Otherwise the port would stay bound at the server, and a retry would find it busy.
                if abandoned && reply != GlobalReply::Invalid {
                    self.undo_forward(&listen, out);
                }
                reply
            }
            (GlobalRequest::ProveHostKeys, Some(body)) => {
                GlobalReply::Proof(Bytes::copy_from_slice(body))
            }
        };
        self.events.push_back(ConnectionEvent::Reply(id, reply));
    }

    fn send_request(
        &mut self,
        request: GlobalRequest,
        payload: &[u8],
        out: &mut impl PacketSink,
    ) -> Option<RequestId> {
        (self.pending.len() < PendingRequests::MAX).then(|| {
            out.send(payload);
            // After it is sent: only then does it have a sequence number.
            self.pending.push(request, out.last_sequence())
        })
    }

    /// Asks the server to listen. `None` if too many requests wait for their answers.
    pub fn request_forward(
        &mut self,
        listen: &RemoteListen,
        out: &mut impl PacketSink,
    ) -> Option<RequestId> {
        let request = GlobalRequest::Forward {
            listen: listen.clone(),
            abandoned: false,
        };
        self.send_request(request, &message::forward_request(listen, false), out)
    }

    /// Asks the server to stop listening and refuses its channels for `listen` from now on. `None` if it does not
    /// listen there, or if too many requests wait for their answers.
    pub fn cancel_forward(
        &mut self,
        listen: &RemoteListen,
        out: &mut impl PacketSink,
    ) -> Option<RequestId> {
        self.cancel(listen, RemoteForwards::oldest, out)
    }

    /// As [`Connection::cancel_forward`], for the forward that was granted last, if there are several alike.
    pub fn undo_forward(
        &mut self,
        listen: &RemoteListen,
        out: &mut impl PacketSink,
    ) -> Option<RequestId> {
        self.cancel(listen, RemoteForwards::newest, out)
    }

    fn cancel(
        &mut self,
        listen: &RemoteListen,
        find: fn(&RemoteForwards, &RemoteListen) -> Option<usize>,
        out: &mut impl PacketSink,
    ) -> Option<RequestId> {
        // Before anything is marked: a forward must not be refused without the server being asked to end it.
        if self.pending.len() >= PendingRequests::MAX {
            return None;
        }
        let at = find(&self.forwards, listen)?;
        let bound = self.forwards.cancel(at)?;
        let request = GlobalRequest::CancelForward(listen.clone());
        self.send_request(request, &message::forward_request(&bound, true), out)
    }

    /// Marks a forward request as abandoned: if the server grants it, it is cancelled at once.
    pub fn abandon_forward(&mut self, request: RequestId) {
        self.pending.abandon(request);
    }

    /// Sends a keepalive request (OpenSSH PROTOCOL §2.9). `None` if too many requests wait for their answers.
    pub fn ping(&mut self, now: Instant, out: &mut impl PacketSink) -> Option<RequestId> {
        self.send_request(GlobalRequest::Ping(now), &message::keepalive(), out)
    }

    /// Asks the server to prove that it holds these host keys (OpenSSH PROTOCOL §2.5). `None` if too many requests wait
    /// for their answers.
    pub fn prove_host_keys(
        &mut self,
        keys: &[Bytes],
        out: &mut impl PacketSink,
    ) -> Option<RequestId> {
        self.send_request(
            GlobalRequest::ProveHostKeys,
            &message::prove_host_keys(keys),
            out,
        )
    }
}
