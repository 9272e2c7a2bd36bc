//! The remote forwards that the server has granted (RFC 4254 §7.1). Only they entitle it to open channels.

use super::message::{ForwardedChannel, RemoteListen};
use super::pending::GlobalReply;
use crate::wire::Reader;

/// A forward that the server has granted.
#[derive(Debug)]
struct GrantedForward {
    listen: RemoteListen,
    /// The port that the server bound, 1 to 65535; 0 for a Unix socket.
    bound_port: u16,
    /// Whether we have asked the server to stop listening.
    cancelled: bool,
}

impl GrantedForward {
    fn is_active_for(&self, listen: &RemoteListen) -> bool {
        self.is_named_by(listen) && !self.cancelled
    }

    /// Whether `listen` is what was requested, or names the port that was granted for a requested port 0: several
    /// forwards may have requested that.
    fn is_named_by(&self, listen: &RemoteListen) -> bool {
        match (&self.listen, listen) {
            (
                RemoteListen::Tcp { address, port: 0 },
                RemoteListen::Tcp {
                    address: named,
                    port,
                },
            ) if *port != 0 => address == named && *port == self.bound_port,
            (requested, named) => requested == named,
        }
    }
}

/// The forwards that the server has granted, oldest first.
#[derive(Debug, Default)]
pub(super) struct RemoteForwards {
    granted: Vec<GrantedForward>,
}

/// Which forward a channel of the server belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ForwardMatch {
    /// An active forward, as it was requested, and the port that the server bound.
    Active(RemoteListen, u16),
    /// A forward that is being cancelled: the server may not know that yet.
    Cancelled,
    /// None: the server broke the protocol.
    Unknown,
}

impl RemoteForwards {
    /// Records that the server granted `listen`; `body` is the body of its REQUEST_SUCCESS.
    pub(super) fn grant(&mut self, listen: RemoteListen, body: &[u8]) -> GlobalReply {
        let mut reader = Reader::new(body);
        // Optional: only a request for port 0 has a port in its answer.
        let reported = reader.u32().ok();
        let bound_port = match &listen {
            RemoteListen::Unix { .. } => 0,
            RemoteListen::Tcp { port: 0, .. } => {
                match reported.and_then(|port| u16::try_from(port).ok()) {
                    Some(port) if port != 0 && reader.is_empty() => port,
                    _ => return GlobalReply::Invalid,
                }
            }
            // RFC 4254 §7.1 has no port in the answer unless port 0 was requested; some servers send it anyway.
            RemoteListen::Tcp { port, .. }
                if body.is_empty() || (reported == Some(u32::from(*port)) && reader.is_empty()) =>
            {
                *port
            }
            RemoteListen::Tcp { .. } => return GlobalReply::Invalid,
        };
        self.granted.push(GrantedForward {
            listen,
            bound_port,
            cancelled: false,
        });
        GlobalReply::Listening(bound_port)
    }

    /// Position of the first granted of the active forwards for `listen`.
    pub(super) fn oldest(&self, listen: &RemoteListen) -> Option<usize> {
        self.granted
            .iter()
            .position(|forward| forward.is_active_for(listen))
    }

    /// Position of the last granted of the active forwards for `listen`.
    pub(super) fn newest(&self, listen: &RemoteListen) -> Option<usize> {
        self.granted
            .iter()
            .rposition(|forward| forward.is_active_for(listen))
    }

    /// Marks a forward as cancelled: its channels are refused from now on. Returns what the cancel request has to name,
    /// which is the bound port and not a requested port 0.
    pub(super) fn cancel(&mut self, at: usize) -> Option<RemoteListen> {
        let forward = self.granted.get_mut(at)?;
        // It stays in the list until the answer: channels that cross the cancel request must be refused without a
        // violation.
        forward.cancelled = true;
        Some(match &forward.listen {
            RemoteListen::Tcp { address, .. } => RemoteListen::Tcp {
                address: address.clone(),
                port: forward.bound_port,
            },
            unix @ RemoteListen::Unix { .. } => unix.clone(),
        })
    }

    /// Removes a forward whose cancellation was answered.
    pub(super) fn remove_cancelled(&mut self, listen: &RemoteListen) {
        if let Some(at) = self
            .granted
            .iter()
            .position(|forward| forward.cancelled && forward.is_named_by(listen))
        {
            self.granted.remove(at);
        }
    }

    /// Finds the forward of a channel. The port decides. The address only decides between forwards of one port, because
    /// servers report it as requested or as bound.
    pub(super) fn find(&self, channel: &ForwardedChannel<'_>) -> ForwardMatch {
        let same_port = |forward: &&GrantedForward| match (&forward.listen, channel) {
            (RemoteListen::Tcp { .. }, ForwardedChannel::Tcp { port, .. }) => {
                // Compared as u32: a reported port above 65535 matches nothing.
                u32::from(forward.bound_port) == *port
            }
            (RemoteListen::Unix { path }, ForwardedChannel::Unix { path: reported }) => {
                path == reported
            }
            _ => false,
        };
        let same_address = |forward: &&GrantedForward| match (&forward.listen, channel) {
            (
                RemoteListen::Tcp { address, .. },
                ForwardedChannel::Tcp {
                    address: reported, ..
                },
            ) => address.as_bytes().eq_ignore_ascii_case(reported),
            _ => true,
        };
        let mut candidates = self.granted.iter().filter(same_port);
        // One forward on the port: the address is not compared, because servers report `localhost` as `127.0.0.1`, or
        // as requested.
        let found = match (candidates.next(), candidates.next()) {
            (Some(only), None) => Some(only),
            (None, _) => None,
            _ => self.granted.iter().filter(same_port).find(same_address),
        };
        match found {
            Some(forward) if forward.cancelled => ForwardMatch::Cancelled,
            Some(forward) => ForwardMatch::Active(forward.listen.clone(), forward.bound_port),
            None => ForwardMatch::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str, port: u16) -> RemoteListen {
        RemoteListen::Tcp {
            address: address.into(),
            port,
        }
    }

    fn from(address: &str, port: u32) -> ForwardedChannel<'_> {
        ForwardedChannel::Tcp {
            address: address.as_bytes(),
            port,
            originator_address: b"",
            originator_port: 1,
        }
    }

    #[test]
    fn replies_to_a_request_for_any_port() {
        for (body, reply) in [
            (&[0, 0, 0x1f, 0x90][..], GlobalReply::Listening(8080)),
            (&[], GlobalReply::Invalid),
            (&[0, 0, 0, 0], GlobalReply::Invalid),
            (&[0, 1, 0, 0], GlobalReply::Invalid),
            (&[0, 0, 0x1f, 0x90, 1], GlobalReply::Invalid),
        ] {
            assert_eq!(RemoteForwards::default().grant(tcp("", 0), body), reply);
        }
    }

    #[test]
    fn replies_to_a_request_for_one_port() {
        for (body, reply) in [
            (&[][..], GlobalReply::Listening(8080)),
            (&[0, 0, 0x1f, 0x90], GlobalReply::Listening(8080)),
            (&[0, 0, 0x1f, 0x91], GlobalReply::Invalid),
            (&[0, 0, 0x1f, 0x90, 1], GlobalReply::Invalid),
            (&[0], GlobalReply::Invalid),
        ] {
            assert_eq!(RemoteForwards::default().grant(tcp("", 8080), body), reply);
        }
    }

    #[test]
    fn only_active_forwards_are_found() {
        let mut forwards = RemoteForwards::default();
        assert_eq!(forwards.find(&from("localhost", 80)), ForwardMatch::Unknown);
        forwards.grant(tcp("localhost", 0), &[0, 0, 0, 80]);
        assert_eq!(
            forwards.find(&from("127.0.0.1", 80)),
            ForwardMatch::Active(tcp("localhost", 0), 80)
        );
        assert_eq!(forwards.find(&from("localhost", 81)), ForwardMatch::Unknown);
        assert_eq!(
            forwards.find(&from("localhost", 65536 + 80)),
            ForwardMatch::Unknown
        );
        assert_eq!(
            forwards.cancel(forwards.oldest(&tcp("localhost", 0)).unwrap()),
            Some(tcp("localhost", 80))
        );
        assert_eq!(
            forwards.find(&from("localhost", 80)),
            ForwardMatch::Cancelled
        );
        forwards.remove_cancelled(&tcp("localhost", 0));
        assert_eq!(forwards.find(&from("localhost", 80)), ForwardMatch::Unknown);
    }

    #[test]
    fn the_granted_port_names_one_of_several_requests_for_port_0() {
        let mut forwards = RemoteForwards::default();
        forwards.grant(tcp("", 0), &[0, 0, 0, 80]);
        forwards.grant(tcp("", 0), &[0, 0, 0, 81]);
        let second = forwards.oldest(&tcp("", 81)).unwrap();
        assert_eq!(forwards.cancel(second), Some(tcp("", 81)));
        assert_eq!(forwards.oldest(&tcp("", 81)), None);
        forwards.remove_cancelled(&tcp("", 81));
        assert_eq!(
            forwards.find(&from("", 80)),
            ForwardMatch::Active(tcp("", 0), 80)
        );
        assert_eq!(forwards.find(&from("", 81)), ForwardMatch::Unknown);
    }

    #[test]
    fn two_forwards_of_one_port_need_the_address() {
        let mut forwards = RemoteForwards::default();
        forwards.grant(tcp("127.0.0.1", 80), &[]);
        forwards.grant(tcp("::1", 80), &[]);
        assert_eq!(
            forwards.find(&from("::1", 80)),
            ForwardMatch::Active(tcp("::1", 80), 80)
        );
        assert_eq!(forwards.find(&from("0.0.0.0", 80)), ForwardMatch::Unknown);
    }
}
