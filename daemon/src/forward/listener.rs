//! Takes the addresses of a forward on this side, and the connections that come to them.

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

use super::ForwardOptions;
use super::forward_state::BoundAddr;
use super::local_socket::LocalSocket;
use super::port_owner;
#[cfg(unix)]
use super::unix_socket::UnixSocket;
use crate::failure::{Failure, FailureKind};
use tunneld_config::addr::{BindAddr, ListenAddr};

/// As many may knock before they are let in.
const BACKLOG: i32 = 1024;
/// How often a port is sought that is free in both families.
const MAX_PORT_TRIES: usize = 16;
/// How long the name of a listen address may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The sockets of one forward. Dropping it gives them up.
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
    /// Takes what a forward wants to listen at.
    pub(super) async fn bind(
        tunnel: &str,
        listen: &ListenAddr,
        options: &ForwardOptions,
    ) -> Result<Self, Failure> {
        match listen {
            ListenAddr::Tcp { bind, port } => bind_tcp(tunnel, listen, bind, *port).await,
            #[cfg(unix)]
            ListenAddr::Unix(path) => {
                let socket = UnixSocket::bind(path, &options.forwarding).await?;
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
                        "cannot listen on {}: this system has no Unix sockets here",
                        path.display()
                    ),
                )
                .hint("give a TCP port instead"))
            }
        }
    }

    /// Where it listens.
    pub(super) fn bound_addr(&self) -> &BoundAddr {
        &self.bound_addr
    }

    /// The next connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<LocalSocket> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Waits until nobody can find it any more: others have taken the file of its Unix socket away.
    pub(super) async fn path_lost(&self) {
        #[cfg(unix)]
        for socket in &self.sockets {
            if let ListenSocket::Unix(socket) = socket {
                return socket.path_lost().await;
            }
        }
        std::future::pending().await
    }

    /// A connection that waits already; none without one.
    pub(super) fn accept_now(&self) -> Option<LocalSocket> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll_accept(&mut cx) {
            Poll::Ready(accepted) => accepted.ok(),
            Poll::Pending => None,
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<LocalSocket>> {
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
            format!("cannot listen on {listen}: it has no address"),
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

/// The addresses of a name, IPv4 first. A name may lead to this machine alone: what it means can change any day,
/// so whoever wants to be reached from outside writes the address.
async fn resolve(host: &str, port: u16) -> Result<Vec<IpAddr>, Failure> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![ip]);
    }
    let failure = |what: String| {
        Failure::new(
            FailureKind::BindFailed,
            format!("cannot listen on {}: {what}", escape(host)),
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
            "the name leads to {outside}, not to this machine alone"
        ))
        .hint(format!(
            "write the address itself to listen there: {outside}"
        )));
    }
    Ok(found)
}

type BindError = (SocketAddr, io::Error);

/// Binds what can be had of several addresses. An IPv4 address that is in use fails them all: a client that means
/// this forward would reach somebody else there.
fn bind_each(tunnel: &str, ips: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, BindError> {
    let tries = if port == 0 && ips.len() > 1 {
        MAX_PORT_TRIES
    } else {
        1
    };
    let mut best: Vec<TcpListener> = Vec::new();
    let mut trouble = None;
    for _ in 0..tries {
        let mut bound: Vec<TcpListener> = Vec::new();
        let mut missing = None;
        for &ip in ips {
            let port = bound
                .first()
                .and_then(|first| first.local_addr().ok())
                .map_or(port, |first| first.port());
            let address = SocketAddr::new(ip, port);
            match bind_one(address, true) {
                Ok(listener) => bound.push(listener),
                Err(error) if ip.is_ipv4() && is_in_use(&error) => return Err((address, error)),
                Err(error) => missing = Some((address, error)),
            }
        }
        let picks_again = missing.as_ref().is_some_and(|(_, error)| is_in_use(error));
        if bound.len() > best.len() || best.is_empty() {
            best = bound;
            trouble = missing;
        }
        if !picks_again {
            break;
        }
    }
    match trouble {
        Some(refused) if best.is_empty() => Err(refused),
        Some((address, error)) => {
            warn!(
                tunnel,
                "cannot listen on {address}: {error}; the forward listens on its other addresses alone"
            );
            Ok(best)
        }
        None => Ok(best),
    }
}

/// Every address, of both families at one port.
fn bind_any(port: u16) -> Result<Vec<TcpListener>, BindError> {
    let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match bind_one(both, false) {
        Ok(listener) => Ok(vec![listener]),
        Err(error) if is_in_use(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            Err((both, error))
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
    // On Windows this option means to share a port with whoever has it.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

async fn bind_failure(address: SocketAddr, error: &io::Error) -> Failure {
    let failure = |what: &str| {
        Failure::new(
            FailureKind::BindFailed,
            format!("cannot listen on {address}: {what}"),
        )
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = port_owner::of_port(address.port()).await;
            port_owner::in_use(|what| failure(what), owner)
        }
        io::ErrorKind::PermissionDenied => failure("permission denied")
            .hint("ports below 1024 want a privilege; choose a higher one"),
        io::ErrorKind::AddrNotAvailable => failure("this machine does not have the address")
            .hint("it is taken as soon as the address appears"),
        _ => failure(&error.to_string()),
    }
}
