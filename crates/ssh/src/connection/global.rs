//! Global requests (RFC 4254 §4 and §7.1): ours wait in order for their answers, theirs are answered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::message::{Forwarded, Listen};
use crate::wire::Reader;

/// Names one of our requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

/// How a request of ours was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The server listens; the port really bound, 0 for a Unix socket.
    Listening(u16),
    /// The server listens no more.
    Cancelled,
    /// It is alive; the round trip.
    Pong(Duration),
    /// The signatures that prove host keys, as one undivided answer.
    Proof(Bytes),
    /// The server said no.
    Refused,
    /// The server said yes in words that make no sense.
    Nonsense,
}

/// What was asked.
#[derive(Debug)]
pub(crate) enum Asked {
    Forward {
        listen: Listen,
        /// Whoever asked has gone.
        unwanted: bool,
    },
    Cancel(Listen),
    Ping(Instant),
    Proof,
}

/// Requests without an answer, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    queue: VecDeque<Request>,
    next: u64,
}

/// One of them.
#[derive(Debug)]
struct Request {
    id: RequestId,
    asked: Asked,
    /// The message's sequence number, where it is known.
    number: Option<u32>,
}

impl Pending {
    /// As many requests may wait at once.
    pub(crate) const MOST: usize = 1024;

    pub(crate) fn push(&mut self, asked: Asked, number: Option<u32>) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.queue.push_back(Request { id, asked, number });
        id
    }

    pub(crate) fn pop(&mut self) -> Option<(RequestId, Asked)> {
        let oldest = self.queue.pop_front()?;
        Some((oldest.id, oldest.asked))
    }

    /// Takes out the one whose message has this sequence number.
    pub(crate) fn take(&mut self, number: u32) -> Option<(RequestId, Asked)> {
        let fits = |request: &Request| request.number == Some(number);
        let at = self.queue.iter().position(fits)?;
        let request = self.queue.remove(at)?;
        Some((request.id, request.asked))
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn abandon(&mut self, request: RequestId) {
        for waiting in &mut self.queue {
            if let Asked::Forward { unwanted, .. } = &mut waiting.asked
                && waiting.id == request
            {
                *unwanted = true;
            }
        }
    }

    pub(crate) fn pinging(&self) -> bool {
        self.queue
            .iter()
            .any(|request| matches!(request.asked, Asked::Ping(_)))
    }
}

/// A forward that the server granted.
#[derive(Debug)]
struct Active {
    listen: Listen,
    port: u16,
    cancelled: bool,
}

impl Active {
    fn is(&self, listen: &Listen) -> bool {
        self.listen == *listen && !self.cancelled
    }
}

/// The forwards that the server granted: only they may open channels.
#[derive(Debug, Default)]
pub(crate) struct Forwards {
    active: Vec<Active>,
}

/// What a channel that the server opens belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Belongs {
    /// To this forward, as it was asked for, and its port really bound.
    To(Listen, u16),
    /// To one whose cancelling is under way.
    Late,
    /// To none.
    Nowhere,
}

impl Forwards {
    /// The server's yes; what it means.
    pub(crate) fn grant(&mut self, listen: Listen, body: &[u8]) -> Reply {
        let mut reader = Reader::new(body);
        let told = reader.u32().ok();
        let port = match &listen {
            Listen::Unix { .. } => 0,
            Listen::Tcp { port: 0, .. } => match told.and_then(|port| u16::try_from(port).ok()) {
                Some(port) if port != 0 && reader.is_empty() => port,
                _ => return Reply::Nonsense,
            },
            // Some servers tell the port though it was not theirs to choose.
            Listen::Tcp { port, .. }
                if body.is_empty() || (told == Some(u32::from(*port)) && reader.is_empty()) =>
            {
                *port
            }
            Listen::Tcp { .. } => return Reply::Nonsense,
        };
        self.active.push(Active {
            listen,
            port,
            cancelled: false,
        });
        Reply::Listening(port)
    }

    /// The forward that was granted first of those that listen there.
    pub(crate) fn oldest(&self, listen: &Listen) -> Option<usize> {
        self.active.iter().position(|active| active.is(listen))
    }

    /// The forward that was granted last of those that listen there.
    pub(crate) fn newest(&self, listen: &Listen) -> Option<usize> {
        self.active.iter().rposition(|active| active.is(listen))
    }

    /// From now on its channels are refused. What to name in the request: the port really bound.
    pub(crate) fn cancel(&mut self, at: usize) -> Option<Listen> {
        let active = self.active.get_mut(at)?;
        active.cancelled = true;
        Some(match &active.listen {
            Listen::Tcp { address, .. } => Listen::Tcp {
                address: address.clone(),
                port: active.port,
            },
            unix @ Listen::Unix { .. } => unix.clone(),
        })
    }

    /// Its cancelling was answered.
    pub(crate) fn forget(&mut self, listen: &Listen) {
        if let Some(at) = self
            .active
            .iter()
            .position(|active| active.cancelled && active.listen == *listen)
        {
            self.active.remove(at);
        }
    }

    /// Finds the forward of a channel. The port decides; the address only between forwards of one
    /// port, because servers tell it as asked or as bound.
    pub(crate) fn find(&self, forwarded: &Forwarded<'_>) -> Belongs {
        let fits = |active: &&Active| match (&active.listen, forwarded) {
            (Listen::Tcp { .. }, Forwarded::Tcp { port, .. }) => u32::from(active.port) == *port,
            (Listen::Unix { path }, Forwarded::Unix { path: told }) => path == told,
            _ => false,
        };
        let exact = |active: &&Active| match (&active.listen, forwarded) {
            (Listen::Tcp { address, .. }, Forwarded::Tcp { address: told, .. }) => {
                address.as_bytes().eq_ignore_ascii_case(told)
            }
            _ => true,
        };
        let mut candidates = self.active.iter().filter(fits);
        let found = match (candidates.next(), candidates.next()) {
            (Some(only), None) => Some(only),
            (None, _) => None,
            _ => self.active.iter().filter(fits).find(exact),
        };
        match found {
            Some(active) if active.cancelled => Belongs::Late,
            Some(active) => Belongs::To(active.listen.clone(), active.port),
            None => Belongs::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str, port: u16) -> Listen {
        Listen::Tcp {
            address: address.into(),
            port,
        }
    }

    fn from(address: &str, port: u32) -> Forwarded<'_> {
        Forwarded::Tcp {
            address: address.as_bytes(),
            port,
            from: b"",
            from_port: 1,
        }
    }

    #[test]
    fn answers_to_a_chosen_port() {
        for (body, reply) in [
            (&[0, 0, 0x1f, 0x90][..], Reply::Listening(8080)),
            (&[], Reply::Nonsense),
            (&[0, 0, 0, 0], Reply::Nonsense),
            (&[0, 1, 0, 0], Reply::Nonsense),
            (&[0, 0, 0x1f, 0x90, 1], Reply::Nonsense),
        ] {
            assert_eq!(Forwards::default().grant(tcp("", 0), body), reply);
        }
    }

    #[test]
    fn answers_to_an_asked_port() {
        for (body, reply) in [
            (&[][..], Reply::Listening(8080)),
            (&[0, 0, 0x1f, 0x90], Reply::Listening(8080)),
            (&[0, 0, 0x1f, 0x91], Reply::Nonsense),
            (&[0, 0, 0x1f, 0x90, 1], Reply::Nonsense),
            (&[0], Reply::Nonsense),
        ] {
            assert_eq!(Forwards::default().grant(tcp("", 8080), body), reply);
        }
    }

    #[test]
    fn only_active_forwards_are_found() {
        let mut forwards = Forwards::default();
        assert_eq!(forwards.find(&from("localhost", 80)), Belongs::Nowhere);
        forwards.grant(tcp("localhost", 0), &[0, 0, 0, 80]);
        assert_eq!(
            forwards.find(&from("127.0.0.1", 80)),
            Belongs::To(tcp("localhost", 0), 80)
        );
        assert_eq!(forwards.find(&from("localhost", 81)), Belongs::Nowhere);
        assert_eq!(
            forwards.find(&from("localhost", 65536 + 80)),
            Belongs::Nowhere
        );
        assert_eq!(
            forwards.cancel(forwards.oldest(&tcp("localhost", 0)).unwrap()),
            Some(tcp("localhost", 80))
        );
        assert_eq!(forwards.find(&from("localhost", 80)), Belongs::Late);
        forwards.forget(&tcp("localhost", 0));
        assert_eq!(forwards.find(&from("localhost", 80)), Belongs::Nowhere);
    }

    #[test]
    fn two_forwards_of_one_port_need_the_address() {
        let mut forwards = Forwards::default();
        forwards.grant(tcp("127.0.0.1", 80), &[]);
        forwards.grant(tcp("::1", 80), &[]);
        assert_eq!(
            forwards.find(&from("::1", 80)),
            Belongs::To(tcp("::1", 80), 80)
        );
        assert_eq!(forwards.find(&from("0.0.0.0", 80)), Belongs::Nowhere);
    }
}
