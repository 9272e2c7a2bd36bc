//! Asking and answering global requests (RFC 4254 §4 and §7.1, OpenSSH PROTOCOL §2.5 and §2.9).

use std::time::Instant;

use bytes::Bytes;

use super::global::{Asked, Forwards, Pending, Reply, RequestId};
use super::message::{self, Listen};
use super::{Connection, Event, Outbox, broken};
use crate::error::Error;
use crate::wire::Reader;

/// As many host keys are listened to.
const HOST_KEYS: usize = 64;

impl Connection {
    pub(super) fn meter_request(&mut self, now: Instant) -> Result<(), Error> {
        if self.requests.count(now) {
            Ok(())
        } else {
            Err(broken("more than 1000 requests in a second"))
        }
    }

    pub(super) fn global_request(
        &mut self,
        now: Instant,
        mut body: Reader<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), Error> {
        let name = body.string()?;
        let wants_reply = body.bool()?;
        self.meter_request(now)?;
        if name == b"hostkeys-00@openssh.com" {
            self.host_keys(body)?;
        }
        if wants_reply {
            // keepalive@openssh.com too: any answer is a sign of life.
            out.send(&[message::REQUEST_FAILURE]);
        }
        Ok(())
    }

    fn host_keys(&mut self, mut body: Reader<'_>) -> Result<(), Error> {
        let mut keys = Vec::new();
        while !body.is_empty() {
            if keys.len() == HOST_KEYS {
                return Err(broken("more than 64 host keys"));
            }
            keys.push(Bytes::copy_from_slice(body.string()?));
        }
        self.events.push_back(Event::HostKeys(keys));
        Ok(())
    }

    pub(super) fn answered(
        &mut self,
        now: Instant,
        yes: Option<&[u8]>,
        out: &mut impl Outbox,
    ) -> Result<(), Error> {
        let Some((id, asked)) = self.pending.pop() else {
            return Err(broken("an answer to a request that was not made"));
        };
        self.settle(now, (id, asked), yes, out);
        Ok(())
    }

    /// The server does not know the message of this sequence number. Where it was a request, that is its answer, and
    /// of a ping as good a sign of life as any.
    pub fn unknown(&mut self, now: Instant, number: u32, out: &mut impl Outbox) {
        if let Some(request) = self.pending.take(number) {
            self.settle(now, request, None, out);
        }
    }

    fn settle(
        &mut self,
        now: Instant,
        (id, asked): (RequestId, Asked),
        yes: Option<&[u8]>,
        out: &mut impl Outbox,
    ) {
        let reply = match (asked, yes) {
            (Asked::Ping(sent), _) => {
                let rtt = now.saturating_duration_since(sent);
                self.rtt.add(rtt);
                Reply::Pong(rtt)
            }
            (Asked::Cancel(listen), yes) => {
                self.forwards.forget(&listen);
                yes.map_or(Reply::Refused, |_| Reply::Cancelled)
            }
            (_, None) => Reply::Refused,
            (Asked::Forward { listen, unwanted }, Some(body)) => {
                let reply = self.forwards.grant(listen.clone(), body);
                if unwanted && reply != Reply::Nonsense {
                    self.undo_forward(&listen, out);
                }
                reply
            }
            (Asked::Proof, Some(body)) => Reply::Proof(Bytes::copy_from_slice(body)),
        };
        self.events.push_back(Event::Reply(id, reply));
    }

    fn ask(&mut self, asked: Asked, payload: &[u8], out: &mut impl Outbox) -> Option<RequestId> {
        (self.pending.len() < Pending::MOST).then(|| {
            out.send(payload);
            self.pending.push(asked, out.sent())
        })
    }

    /// Asks the server to listen; `None` where too many requests wait already.
    pub fn request_forward(&mut self, listen: &Listen, out: &mut impl Outbox) -> Option<RequestId> {
        let asked = Asked::Forward {
            listen: listen.clone(),
            unwanted: false,
        };
        self.ask(asked, &message::forward(listen, false), out)
    }

    /// Asks the server to listen no more; its channels are refused from now on. `None` where it does
    /// not listen, or too many requests wait.
    pub fn cancel_forward(&mut self, listen: &Listen, out: &mut impl Outbox) -> Option<RequestId> {
        self.cancel(listen, Forwards::oldest, out)
    }

    /// As [`Connection::cancel_forward`], for the one that was granted last, should there be several alike.
    pub fn undo_forward(&mut self, listen: &Listen, out: &mut impl Outbox) -> Option<RequestId> {
        self.cancel(listen, Forwards::newest, out)
    }

    fn cancel(
        &mut self,
        listen: &Listen,
        which: fn(&Forwards, &Listen) -> Option<usize>,
        out: &mut impl Outbox,
    ) -> Option<RequestId> {
        if self.pending.len() >= Pending::MOST {
            return None;
        }
        let at = which(&self.forwards, listen)?;
        let bound = self.forwards.cancel(at)?;
        let asked = Asked::Cancel(listen.clone());
        self.ask(asked, &message::forward(&bound, true), out)
    }

    /// Nobody waits for this forward any more: should the server grant it, it is cancelled at once.
    pub fn abandon_forward(&mut self, request: RequestId) {
        self.pending.abandon(request);
    }

    /// Asks for a sign of life (OpenSSH PROTOCOL §2.9); `None` where too many requests wait.
    pub fn ping(&mut self, now: Instant, out: &mut impl Outbox) -> Option<RequestId> {
        self.ask(Asked::Ping(now), &message::keepalive(), out)
    }

    /// Asks the server to prove that it holds these host keys (OpenSSH PROTOCOL §2.5).
    pub fn prove_host_keys(&mut self, keys: &[Bytes], out: &mut impl Outbox) -> Option<RequestId> {
        self.ask(Asked::Proof, &message::prove_host_keys(keys), out)
    }
}
