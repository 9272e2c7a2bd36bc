//! Our global requests that wait for an answer. The server answers them in order (RFC 4254 §4).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::message::RemoteListen;

/// Identifies one of our global requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

/// How the server answered a global request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GlobalReply {
    /// The server listens on this port, 0 for a Unix socket.
    Listening(u16),
    /// The server has stopped listening.
    Cancelled,
    /// Round trip of a ping; a refusal counts too.
    Pong(Duration),
    /// The body of the answer to a host key proof: one signature per key, not verified.
    Proof(Bytes),
    /// The server sent REQUEST_FAILURE, or UNIMPLEMENTED.
    Refused,
    /// The server granted the request with a body that does not fit it.
    Invalid,
}

/// What a request asks for.
#[derive(Debug)]
pub(super) enum GlobalRequest {
    Forward {
        listen: RemoteListen,
        /// Whether the caller has gone: the forward is cancelled as soon as it is granted.
        abandoned: bool,
    },
    CancelForward(RemoteListen),
    /// A keepalive request, and when it was sent: the answer's delay is the round trip.
    Ping(Instant),
    ProveHostKeys,
}

/// Requests without an answer, oldest first.
#[derive(Debug, Default)]
pub(super) struct PendingRequests {
    queue: VecDeque<PendingGlobalRequest>,
    next_id: u64,
}

#[derive(Debug)]
struct PendingGlobalRequest {
    id: RequestId,
    request: GlobalRequest,
    /// Sequence number of its packet, to which UNIMPLEMENTED refers. `None` if it is held back for new keys.
    sequence: Option<u32>,
}

impl PendingRequests {
    /// Requests that may wait at the same time. A server that answers none of them would let the queue grow with each
    /// keepalive.
    pub(super) const MAX: usize = 1024;

    pub(super) fn push(&mut self, request: GlobalRequest, sequence: Option<u32>) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.queue.push_back(PendingGlobalRequest {
            id,
            request,
            sequence,
        });
        id
    }

    /// Removes the oldest request. Answers have no number: they belong to the oldest request (RFC 4254 §4).
    pub(super) fn pop(&mut self) -> Option<(RequestId, GlobalRequest)> {
        let oldest = self.queue.pop_front()?;
        Some((oldest.id, oldest.request))
    }

    /// Removes the request whose packet had this sequence number.
    pub(super) fn take_by_sequence(&mut self, sequence: u32) -> Option<(RequestId, GlobalRequest)> {
        let at = self
            .queue
            .iter()
            // From the front: the oldest request with this number. The queue is short, and UNIMPLEMENTED is rare.
            .position(|pending| pending.sequence == Some(sequence))?;
        let pending = self.queue.remove(at)?;
        Some((pending.id, pending.request))
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Marks a forward request as abandoned by its caller.
    pub(super) fn abandon(&mut self, id: RequestId) {
        for pending in &mut self.queue {
            if let GlobalRequest::Forward { abandoned, .. } = &mut pending.request
                && pending.id == id
            {
                // It stays in the queue: answers have no number, so that removing it would shift all later ones.
                *abandoned = true;
            }
        }
    }

    pub(super) fn has_ping(&self) -> bool {
        self.queue
            .iter()
            .any(|pending| matches!(pending.request, GlobalRequest::Ping(_)))
    }
}
