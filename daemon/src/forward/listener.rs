//! Binds the local addresses of a forward and accepts connections from all of them. `local` decides what happens with
//! the connections; Unix sockets are bound in `unix_socket`.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, Type};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::warn;
use tunneld_proto::text::escape;

use super::forward_state::BoundAddr;
use super::local_socket::{LISTEN_BACKLOG, LocalSocket};
use super::port_owner;
#[cfg(unix)]
use super::unix_socket::UnixSocket;
use crate::failure::{Failure, FailureKind};
use tunneld_config::addr::{BindAddr, ListenAddr};
use tunneld_config::model::Forwarding;

/// How many random ports are tried until one is free on both loopback addresses.
const MAX_PORT_TRIES: usize = 16;
/// How long the resolution of a listen address's name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The listening sockets of one forward, on one or two addresses. Dropping it closes them.
#[derive(Debug)]
pub(super) struct ForwardListener {
    sockets: Vec<ListenSocket>,
    bound_addr: BoundAddr,
}

#[derive(Debug)]
enum ListenSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixSocket),
}

impl ForwardListener {
    /// Binds `listen`.
    ///
    /// # Errors
    /// `BindFailed`, with the program that has the address where that is known.
    pub(super) async fn bind(
        tunnel: &str,
        listen: &ListenAddr,
        options: &Forwarding,
    ) -> Result<Self, Failure> {
        match listen {
            ListenAddr::Tcp { bind, port } => bind_tcp(tunnel, listen, bind, *port).await,
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
    pub(super) fn bound_addr(&self) -> &BoundAddr {
        &self.bound_addr
    }

    /// Waits for the next connection on any of the addresses. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<LocalSocket> {
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
                ListenSocket::Tcp(listener) => {
                    listener.poll_accept(cx).map_ok(|(stream, _)| stream.into())
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

async fn bind_tcp(
    tunnel: &str,
    listen: &ListenAddr,
    bind: &BindAddr,
    port: u16,
) -> Result<ForwardListener, Failure> {
    let listeners = match bind {
        BindAddr::Loopback => bind_each(
            tunnel,
            &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            port,
        ),
        BindAddr::Any => bind_any(port),
        BindAddr::Host(host) => bind_each(tunnel, &resolve(host, port).await?, port),
    };
    let listeners = match listeners {
        Ok(listeners) => listeners,
        Err((address, error)) => return Err(bind_failure(address, &error).await),
    };
    let first = listeners
        .first()
        .and_then(|listener| listener.local_addr().ok());
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
    let exposed = listeners.iter().any(|listener| {
        listener
            .local_addr()
            .is_ok_and(|address| !address.ip().to_canonical().is_loopback())
    });
    Ok(ForwardListener {
        sockets: listeners.into_iter().map(ListenSocket::Tcp).collect(),
        bound_addr: BoundAddr {
            listen,
            port: first.port(),
            exposed,
        },
    })
}

/// Resolves a listen address, IPv4 addresses first. A name must resolve to loopback addresses only: its meaning can
/// change, and the forward would then be exposed without a change of the configuration. To be reachable from other
/// machines the user configures an address.
async fn resolve(host: &str, port: u16) -> Result<Vec<IpAddr>, Failure> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![ip]);
    }
    let failure = |reason: String| {
        Failure::new(
            FailureKind::BindFailed,
            format!("cannot listen on {}: {reason}", escape(host)),
        )
    };
    let mut found: Vec<IpAddr> =
        match timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port))).await {
            Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
            Ok(Err(error)) => return Err(failure(format!("the name does not resolve: {error}"))),
            Err(_) => {
                return Err(failure(format!(
                    "the name does not resolve within {LOOKUP_TIMEOUT:?}"
                )));
            }
        };
    found.sort_by_key(IpAddr::is_ipv6);
    found.dedup();
    if let Some(outside) = found.iter().find(|ip| !ip.is_loopback()) {
        return Err(failure(format!(
            "the name resolves to {outside}, which is not a loopback address"
        ))
        .hint(format!(
            "to listen there, use the address instead of the name: {outside}"
        )));
    }
    Ok(found)
}

/// The address that could not be bound, and why.
type BindError = (SocketAddr, io::Error);

/// Binds `port` on each of `ips` that can be bound. With port 0 all get the same port, which the system picks for the
/// first.
///
/// An IPv4 address that is in use fails them all: a client that connects to it would reach another program. An address
/// that fails for another reason (IPv6 may be disabled) is skipped.
fn bind_each(tunnel: &str, ips: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, BindError> {
    let tries = if port == 0 && ips.len() > 1 {
        MAX_PORT_TRIES
    } else {
        1
    };
    // The attempt that bound the most addresses, and what it could not bind.
    let mut best: Vec<TcpListener> = Vec::new();
    let mut best_error = None;
    for _ in 0..tries {
        let mut bound: Vec<TcpListener> = Vec::new();
        let mut unbound = None;
        for &ip in ips {
            let port = bound
                .first()
                .and_then(|first| first.local_addr().ok())
                .map_or(port, |first| first.port());
            let address = SocketAddr::new(ip, port);
            match bind_one(address, true) {
                Ok(listener) => bound.push(listener),
                Err(error) if ip.is_ipv4() && is_in_use(&error) => return Err((address, error)),
                Err(error) => unbound = Some((address, error)),
            }
        }
        // Another program has the port that the system picked on the other family: a new pick may be free on both.
        let pick_again = unbound.as_ref().is_some_and(|(_, error)| is_in_use(error));
        if bound.len() > best.len() || best.is_empty() {
            best = bound;
            best_error = unbound;
        }
        if !pick_again {
            break;
        }
    }
    match best_error {
        Some(error) if best.is_empty() => Err(error),
        Some((address, error)) => {
            warn!(
                tunnel,
                "cannot listen on {address}: {error}; the forward listens on its other addresses only"
            );
            Ok(best)
        }
        None => Ok(best),
    }
}

/// Binds all addresses of both families with one dual-stack socket, or of IPv4 alone if the system has no IPv6.
fn bind_any(port: u16) -> Result<Vec<TcpListener>, BindError> {
    let dual_stack = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match bind_one(dual_stack, false) {
        Ok(listener) => Ok(vec![listener]),
        // These would fail for IPv4 too, or leave half of the port to another program.
        Err(error) if is_in_use(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            Err((dual_stack, error))
        }
        Err(_) => {
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            bind_one(v4, false)
                .map(|listener| vec![listener])
                .map_err(|error| (v4, error))
        }
    }
}

fn bind_one(address: SocketAddr, v6_only: bool) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    // On Unix this allows binding a port whose old connections are in TIME_WAIT. On Windows it would allow two programs
    // to share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// Describes why `address` could not be bound, with a hint.
async fn bind_failure(address: SocketAddr, error: &io::Error) -> Failure {
    let failure = |reason: &str| {
        Failure::new(
            FailureKind::BindFailed,
            format!("cannot listen on {address}: {reason}"),
        )
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = port_owner::of_port(address.port()).await;
            port_owner::in_use(failure, owner)
        }
        io::ErrorKind::PermissionDenied => failure("permission denied")
            .hint("ports below 1024 need a privilege; choose a higher port"),
        io::ErrorKind::AddrNotAvailable => failure("this machine does not have the address")
            .hint("tunneld listens as soon as the address appears"),
        _ => failure(&error.to_string()),
    }
}
