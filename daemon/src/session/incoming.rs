//! Connections that the server opens for remote forwards (RFC 4254 §7.2), and which forwards were requested.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tunneld_proto::text;
use tunneld_ssh::client;
use tunneld_ssh::connection::RemoteListen;

use tunneld_config::addr::{BindAddr, ListenAddr};

/// SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254 §5.1).
const PROHIBITED: u32 = 1;

/// A connection that the server opened for one of our remote forwards.
pub struct Incoming {
    /// The forward, as it was passed to `Session::request_forward`.
    pub listen: ListenAddr,
    /// The port that the server bound, also if port 0 was requested; 0 for a Unix socket.
    pub port: u16,
    /// Who connected, according to the server: not to be trusted. Escaped.
    pub originator: String,
    /// The channel, to be accepted or refused. Dropping it refuses the connection.
    pub channel: client::PendingChannel,
}

/// The forwards that were requested and not cancelled: the library's form and the configuration's. The two differ for
/// wildcards, so an incoming connection is matched by the first and reported by the second.
#[derive(Default)]
pub(super) struct RequestedForwards(Mutex<Vec<(RemoteListen, ListenAddr)>>);

impl RequestedForwards {
    pub(super) fn insert(&self, requested: RemoteListen, listen: ListenAddr) {
        self.with(|forwards| forwards.push((requested, listen)));
    }

    /// Removes one request. Several forwards may have requested port 0 on the same address: the failure of one does not
    /// concern the others.
    pub(super) fn remove(&self, requested: &RemoteListen) {
        self.with(|forwards| {
            if let Some(index) = forwards.iter().position(|(other, _)| other == requested) {
                forwards.remove(index);
            }
        });
    }

    fn get(&self, requested: &RemoteListen) -> Option<ListenAddr> {
        self.with(|forwards| {
            let found = forwards.iter().find(|(other, _)| other == requested);
            found.map(|(_, listen)| listen.clone())
        })
    }

    /// A std mutex suffices: it is never held across an await. A panic cannot leave the list half changed.
    fn with<T>(&self, work: impl FnOnce(&mut Vec<(RemoteListen, ListenAddr)>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Passes incoming connections on with the forward as the configuration writes it, until the receiver is dropped.
pub(super) async fn translate(
    mut from: client::IncomingChannels,
    to: mpsc::Sender<Incoming>,
    forwards: Arc<RequestedForwards>,
) {
    while let Some(incoming) = from.recv().await {
        let Some(listen) = forwards.get(&incoming.listen) else {
            // Cancelled while the server opened the connection.
            incoming.channel.refuse(PROHIBITED, "not listening");
            continue;
        };
        let translated = Incoming {
            listen,
            port: incoming.bound_port,
            originator: text::escape(&incoming.originator),
            channel: incoming.channel,
        };
        if to.send(translated).await.is_err() {
            return;
        }
    }
}

/// The address of a `tcpip-forward` request. RFC 4254 §7.1: "" means all interfaces, "localhost" means loopback.
pub(super) fn to_wire(listen: &ListenAddr) -> RemoteListen {
    match listen {
        ListenAddr::Tcp { bind, port } => RemoteListen::Tcp {
            address: match bind {
                BindAddr::Loopback => "localhost".to_owned(),
                BindAddr::Any => String::new(),
                BindAddr::Host(host) if host == "*" => String::new(),
                BindAddr::Host(host) => host.clone(),
            },
            port: *port,
        },
        ListenAddr::Unix(path) => RemoteListen::Unix {
            path: path.as_os_str().as_encoded_bytes().to_vec(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_for_port_0_leaves_the_others() {
        let forwards = RequestedForwards::default();
        let listen = ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port: 0,
        };
        let requested = to_wire(&listen);
        forwards.insert(requested.clone(), listen.clone());
        forwards.insert(requested.clone(), listen.clone());
        forwards.remove(&requested);
        assert_eq!(forwards.get(&requested), Some(listen));
        forwards.remove(&requested);
        assert_eq!(forwards.get(&requested), None);
    }
}
