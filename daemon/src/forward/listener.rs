//! The listening sockets of a forward: accepts connections on all its addresses. `local` decides what happens with the
//! connections; TCP and UDP ports are bound in `bind`, Unix sockets in `unix_socket`.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::net::UdpSocket;

use super::bind::{
    self, BindError, BoundPort, BoundSockets, PortKind, bind_any, bind_each, bind_failure,
    is_address_missing, resolve,
};
use super::forward_state::BoundAddr;
use super::local_socket::LocalSocket;
#[cfg(unix)]
use super::unix_socket::UnixSocket;
use crate::failure::{Failure, FailureKind};
use tunneld_config::addr::{BindAddr, ListenAddr};
use tunneld_config::model::Forwarding;

/// The listening sockets of one forward, on one or two addresses. Dropping it closes them.
#[derive(Debug)]
pub(crate) struct ForwardListener {
    sockets: Vec<ListenSocket>,
    bound_addr: BoundAddr,
    kind: PortKind,
    /// Addresses that could not be bound while another could.
    unbound: Vec<SocketAddr>,
    /// Why the first of `unbound` that this machine has could not be bound. `None` if all are bound, or if the machine
    /// lacks the address family of the others: no client can connect to them then.
    unbound_failure: Option<Failure>,
}

#[derive(Debug)]
enum ListenSocket {
    Port(BoundPort),
    #[cfg(unix)]
    Unix(UnixSocket),
}

impl ForwardListener {
    /// Binds `listen`; `kind` says whether a port is bound for UDP too.
    ///
    /// # Errors
    /// `BindFailed`, with the program that has the address where that is known.
    pub(crate) async fn bind(
        listen: &ListenAddr,
        kind: PortKind,
        options: &Forwarding,
    ) -> Result<Self, Failure> {
        match listen {
            ListenAddr::Tcp { bind, port } => bind_ports(listen, bind, *port, kind).await,
            #[cfg(unix)]
            ListenAddr::Unix(path) => {
                let socket = UnixSocket::bind(path, options).await?;
                Ok(Self {
                    sockets: vec![ListenSocket::Unix(socket)],
                    bound_addr: BoundAddr {
                        listen: path.display().to_string(),
                        port: 0,
                        exposed: false,
                    },
                    kind,
                    unbound: Vec::new(),
                    unbound_failure: None,
                })
            }
            #[cfg(not(unix))]
            ListenAddr::Unix(path) => {
                let _ = options;
                Err(Failure::new(
                    FailureKind::BindFailed,
                    format!(
                        "cannot listen on {}: Unix sockets are not supported on this system",
                        path.display()
                    ),
                )
                .hint("use a TCP port instead"))
            }
        }
    }

    /// Returns the address that is shown in the status. With two loopback addresses it is the first, 127.0.0.1.
    pub(crate) fn bound_addr(&self) -> &BoundAddr {
        &self.bound_addr
    }

    /// Returns why the forward listens on some of its addresses only; `None` if it listens on all that this machine has.
    pub(super) fn unbound_failure(&self) -> Option<&Failure> {
        self.unbound_failure.as_ref()
    }

    /// Returns whether [`ForwardListener::bind_unbound`] has anything to try.
    pub(super) fn is_partial(&self) -> bool {
        !self.unbound.is_empty()
    }

    /// Tries to bind the addresses that are not bound yet.
    pub(super) async fn bind_unbound(&mut self) {
        let mut errors = Vec::new();
        for address in std::mem::take(&mut self.unbound) {
            match bind::bind_port(address, true, self.kind) {
                Ok(port) => self.sockets.push(ListenSocket::Port(port)),
                Err(failed) => errors.push(failed),
            }
        }
        self.set_unbound(errors).await;
    }

    async fn set_unbound(&mut self, errors: Vec<BindError>) {
        self.unbound = errors.iter().map(|failed| failed.address).collect();
        let shown = errors.iter().find(|failed| !is_address_missing(failed));
        self.unbound_failure = match shown {
            Some(failed) => Some(bind_failure(failed).await),
            None => None,
        };
    }

    /// Returns the sockets of the bound ports for datagrams; none unless it was bound with [`PortKind::TcpAndUdp`].
    pub(super) fn datagram_sockets(&self) -> Vec<Arc<UdpSocket>> {
        let socket = |socket: &ListenSocket| match socket {
            ListenSocket::Port(port) => port.udp.clone(),
            #[cfg(unix)]
            ListenSocket::Unix(_) => None,
        };
        self.sockets.iter().filter_map(socket).collect()
    }

    /// Waits for the next connection on any of the addresses. Cancel-safe.
    pub(crate) async fn accept(&self) -> io::Result<LocalSocket> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Waits until no client can reach the socket any more because the file of the Unix socket was removed or replaced.
    /// Never returns for TCP.
    pub(super) async fn path_lost(&self) {
        #[cfg(unix)]
        for socket in &self.sockets {
            if let ListenSocket::Unix(socket) = socket {
                return socket.path_lost().await;
            }
        }
        std::future::pending().await
    }

    /// Returns a connection that is queued already; `None` if there is none or `accept` fails.
    pub(super) fn accept_now(&self) -> Option<LocalSocket> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll_accept(&mut cx) {
            Poll::Ready(accepted) => accepted.ok(),
            Poll::Pending => None,
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<LocalSocket>> {
        // An error is returned only if no socket has a connection: each poll must still register its waker.
        let mut error = None;
        for socket in &self.sockets {
            let accepted = match socket {
                ListenSocket::Port(port) => {
                    port.tcp.poll_accept(cx).map_ok(|(stream, _)| stream.into())
                }
                #[cfg(unix)]
                ListenSocket::Unix(socket) => socket.poll_accept(cx).map_ok(LocalSocket::from),
            };
            match accepted {
                Poll::Ready(Ok(socket)) => return Poll::Ready(Ok(socket)),
                Poll::Ready(Err(failed)) => error = Some(failed),
                Poll::Pending => {}
            }
        }
        error.map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    }
}

async fn bind_ports(
    listen: &ListenAddr,
    bind: &BindAddr,
    port: u16,
    kind: PortKind,
) -> Result<ForwardListener, Failure> {
    let bound = match bind {
        BindAddr::Loopback => bind_each(
            &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            port,
            kind,
        ),
        BindAddr::Any => bind_any(port, kind),
        BindAddr::Host(host) => bind_each(&resolve(host, port).await?, port, kind),
    };
    let BoundSockets { ports, errors } = match bound {
        Ok(bound) => bound,
        Err(failed) => return Err(bind_failure(&failed).await),
    };
    let first = ports.first().and_then(|port| port.tcp.local_addr().ok());
    let Some(first) = first else {
        return Err(Failure::new(
            FailureKind::BindFailed,
            format!("cannot listen on {listen}: the name has no address"),
        ));
    };
    let listen = match bind {
        BindAddr::Any => format!("*:{}", first.port()),
        BindAddr::Loopback | BindAddr::Host(_) => first.to_string(),
    };
    let exposed = ports.iter().any(|port| {
        port.tcp
            .local_addr()
            .is_ok_and(|address| !address.ip().to_canonical().is_loopback())
    });
    let mut listener = ForwardListener {
        sockets: ports.into_iter().map(ListenSocket::Port).collect(),
        bound_addr: BoundAddr {
            listen,
            port: first.port(),
            exposed,
        },
        kind,
        unbound: Vec::new(),
        unbound_failure: None,
    };
    listener.set_unbound(errors).await;
    Ok(listener)
}
