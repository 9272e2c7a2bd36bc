//! Remote forwards over russh: which are active, and which of them a connection that the server opened belongs to.

use std::sync::Arc;

use russh::ChannelOpenFailure;
use russh::client::{ChannelOpenHandle, Msg};
use tokio::sync::mpsc;

use super::russh_client::Shared;
use super::{Incoming, PendingChannel};
use crate::addr::{Bind, Listen};

/// How many connections wait for the answer that tells their port.
const EARLY: usize = 64;

/// What a connection was opened for, as the server tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Tcp { address: String, port: u32 },
    Unix(String),
}

/// A connection that the server opened and that is not answered yet.
pub(super) struct Opened {
    pub(super) channel: russh::Channel<Msg>,
    pub(super) reply: ChannelOpenHandle,
    pub(super) originator: String,
    pub(super) to: mpsc::Sender<Incoming>,
}

impl Opened {
    /// Hands the connection to the floor above, or refuses it where that does not keep up.
    pub(super) fn pass_on(self, found: Option<(Listen, u16)>, shared: &Arc<Shared>) {
        let Some((listen, port)) = found else {
            return self.refuse(shared, ChannelOpenFailure::AdministrativelyProhibited);
        };
        let to = self.to.clone();
        let incoming = Incoming {
            listen,
            port,
            originator: self.originator.clone(),
            channel: PendingChannel {
                opened: self,
                shared: Arc::clone(shared),
            },
        };
        if let Err(full) = to.try_send(incoming) {
            let (mpsc::error::TrySendError::Full(incoming)
            | mpsc::error::TrySendError::Closed(incoming)) = full;
            incoming
                .channel
                .opened
                .refuse(shared, ChannelOpenFailure::ResourceShortage);
        }
    }

    /// Says no.
    pub(super) fn refuse(self, shared: &Arc<Shared>, why: ChannelOpenFailure) {
        shared.spawn(async move { self.reply.reject(why).await });
    }
}

struct Active {
    listen: Listen,
    /// The port that the server bound; none until it has answered.
    bound: Option<u16>,
}

/// The forwards that were asked for.
#[derive(Default)]
pub(super) struct Forwards {
    active: Vec<Active>,
    early: Vec<(Target, Opened)>,
}

impl Forwards {
    /// A forward is about to be asked for: connections may come before the answer does.
    pub(super) fn ask(&mut self, listen: &Listen) {
        self.active.retain(|active| active.listen != *listen);
        self.active.push(Active {
            listen: listen.clone(),
            bound: match listen {
                Listen::Tcp { port: 0, .. } => None,
                Listen::Tcp { port, .. } => Some(*port),
                Listen::Unix(_) => Some(0),
            },
        });
    }

    /// The answer came, with the port that is bound; gives the connections that waited for it.
    pub(super) fn answered(
        &mut self,
        listen: &Listen,
        bound: Option<u16>,
    ) -> Vec<(Option<(Listen, u16)>, Opened)> {
        match bound {
            None => self.active.retain(|active| active.listen != *listen),
            Some(bound) => {
                for active in &mut self.active {
                    if active.listen == *listen {
                        active.bound = Some(bound);
                    }
                }
            }
        }
        let early = std::mem::take(&mut self.early);
        early
            .into_iter()
            .map(|(target, opened)| (self.find(&target), opened))
            .collect()
    }

    /// The forward is wanted no more; the port that was bound for it.
    pub(super) fn cancel(&mut self, listen: &Listen) -> Option<u16> {
        let at = self
            .active
            .iter()
            .position(|active| active.listen == *listen)?;
        self.active.remove(at).bound
    }

    /// The forward that `target` belongs to.
    pub(super) fn find(&self, target: &Target) -> Option<(Listen, u16)> {
        let exact = |active: &&Active| is_for(active, target, true);
        // A server may tell the address in other words than ours; the port decides then.
        let by_port = |active: &&Active| is_for(active, target, false);
        let found = self
            .active
            .iter()
            .find(exact)
            .or_else(|| self.active.iter().find(by_port))?;
        Some((found.listen.clone(), found.bound.unwrap_or(0)))
    }

    /// Keeps a connection whose forward may be told in a moment; gives it back where none is expected.
    pub(super) fn keep(&mut self, target: Target, opened: Opened) -> Result<(), Opened> {
        let expected = self.active.iter().any(|active| active.bound.is_none());
        if !expected || self.early.len() >= EARLY {
            return Err(opened);
        }
        self.early.push((target, opened));
        Ok(())
    }
}

fn is_for(active: &Active, target: &Target, exactly: bool) -> bool {
    match (&active.listen, target) {
        (Listen::Tcp { bind, .. }, Target::Tcp { address, port }) => {
            active.bound.is_some_and(|bound| u32::from(bound) == *port)
                && (!exactly || is_same(bind, address))
        }
        (Listen::Unix(path), Target::Unix(told)) => path.to_string_lossy() == *told,
        _ => false,
    }
}

fn is_same(bind: &Bind, address: &str) -> bool {
    match bind {
        Bind::Loopback => address == "localhost",
        Bind::Any => address.is_empty() || address == "*",
        Bind::Host(host) => host == address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(bind: Bind, port: u16) -> Listen {
        Listen::Tcp { bind, port }
    }

    fn to(address: &str, port: u32) -> Target {
        Target::Tcp {
            address: address.into(),
            port,
        }
    }

    #[test]
    fn finds_the_forward_that_was_asked_for_and_no_other() {
        let mut forwards = Forwards::default();
        let fixed = tcp(Bind::Loopback, 8080);
        let free = tcp(Bind::Loopback, 0);
        let unix = Listen::Unix("/run/x.sock".into());
        for listen in [&fixed, &free, &unix] {
            forwards.ask(listen);
        }
        assert!(forwards.find(&to("localhost", 40_000)).is_none());
        assert!(forwards.answered(&free, Some(40_000)).is_empty());
        assert_eq!(
            forwards.find(&to("localhost", 40_000)),
            Some((free.clone(), 40_000))
        );
        assert_eq!(
            forwards.find(&to("127.0.0.1", 8080)),
            Some((fixed.clone(), 8080))
        );
        assert_eq!(forwards.find(&to("localhost", 70_000)), None);
        assert_eq!(
            forwards.find(&Target::Unix("/run/x.sock".into())),
            Some((unix, 0))
        );
        assert_eq!(forwards.find(&Target::Unix("/etc/passwd".into())), None);

        assert_eq!(forwards.cancel(&free), Some(40_000));
        assert_eq!(forwards.find(&to("localhost", 40_000)), None);
        assert!(forwards.answered(&fixed, None).is_empty());
        assert_eq!(forwards.find(&to("localhost", 8080)), None);
    }

    #[test]
    fn one_port_on_two_addresses() {
        let mut forwards = Forwards::default();
        let (one, two) = (
            tcp(Bind::Host("127.0.0.1".into()), 80),
            tcp(Bind::Host("127.0.0.2".into()), 80),
        );
        forwards.ask(&one);
        forwards.ask(&two);
        assert_eq!(forwards.find(&to("127.0.0.2", 80)), Some((two, 80)));
    }
}
