//! Binds the local addresses of a forward and accepts connections from all of them. `local` decides what happens with
//! the connections; Unix sockets are bound in `unix_socket`.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, Type};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tunneld_proto::text::escape;

use super::forward_state::BoundAddr;
use super::local_socket::{LISTEN_BACKLOG, LocalSocket, reset_unless_closed};
use super::port_owner;
#[cfg(unix)]
use super::unix_socket::UnixSocket;
use crate::failure::{Failure, FailureKind};
use tunneld_config::addr::{BindAddr, ListenAddr};
use tunneld_config::model::Forwarding;
use tunneld_platform::fd_reserve::{self, FdUse};

/// How many random ports are tried until one is free on both loopback addresses.
const MAX_PORT_TRIES: usize = 16;
/// How long the resolution of a listen address's name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The listening sockets of one forward, on one or two addresses. Dropping it closes them.
#[derive(Debug)]
pub(crate) struct ForwardListener {
    sockets: Vec<ListenSocket>,
    bound_addr: BoundAddr,
    /// Addresses that could not be bound while another could.
    unbound: Vec<SocketAddr>,
    /// Why the first of `unbound` that this machine has could not be bound. `None` if all are bound, or if the machine
    /// lacks the address family of the others: no client can connect to them then.
    unbound_failure: Option<Failure>,
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
    pub(crate) async fn bind(listen: &ListenAddr, options: &Forwarding) -> Result<Self, Failure> {
        match listen {
            ListenAddr::Tcp { bind, port } => bind_tcp(listen, bind, *port).await,
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
            match bind_one(address, true) {
                Ok(listener) => self.sockets.push(ListenSocket::Tcp(listener)),
                Err(error) => errors.push((address, error)),
            }
        }
        self.set_unbound(errors).await;
    }

    async fn set_unbound(&mut self, errors: Vec<BindError>) {
        self.unbound = errors.iter().map(|(address, _)| *address).collect();
        let shown = errors
            .iter()
            .find(|(address, error)| !is_address_missing(*address, error));
        self.unbound_failure = match shown {
            Some((address, error)) => Some(bind_failure(*address, error).await),
            None => None,
        };
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
    listen: &ListenAddr,
    bind: &BindAddr,
    port: u16,
) -> Result<ForwardListener, Failure> {
    let bound = match bind {
        BindAddr::Loopback => bind_each(
            &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            port,
        ),
        BindAddr::Any => bind_any(port),
        BindAddr::Host(host) => bind_each(&resolve(host, port).await?, port),
    };
    let BoundSockets { listeners, errors } = match bound {
        Ok(bound) => bound,
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
    let mut listener = ForwardListener {
        sockets: listeners.into_iter().map(ListenSocket::Tcp).collect(),
        bound_addr: BoundAddr {
            listen,
            port: first.port(),
            exposed,
        },
        unbound: Vec::new(),
        unbound_failure: None,
    };
    listener.set_unbound(errors).await;
    Ok(listener)
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

/// The sockets of one listen address, and the addresses that could not be bound. At least one socket, unless a name has no
/// address.
struct BoundSockets {
    listeners: Vec<TcpListener>,
    errors: Vec<BindError>,
}

/// Binds `port` on each of `ips`, as many as possible. With port 0 all get the same port, which the system picks for the
/// first.
///
/// An IPv4 address that is in use fails them all: a client that connects to it would reach another program. Another
/// address that fails is among the errors, and the caller tries it again.
fn bind_each(ips: &[IpAddr], port: u16) -> Result<BoundSockets, BindError> {
    let tries = if port == 0 && ips.len() > 1 {
        MAX_PORT_TRIES
    } else {
        1
    };
    // The attempt that bound the most addresses.
    let mut best: Option<BoundSockets> = None;
    for _ in 0..tries {
        let attempt = bind_each_once(ips, port)?;
        // Another program has the port that the system picked on the other family: a new pick may be free on both.
        let pick_again = attempt.errors.iter().any(|(_, error)| is_in_use(error));
        if best
            .as_ref()
            .is_none_or(|best| attempt.listeners.len() > best.listeners.len())
        {
            best = Some(attempt);
        }
        if !pick_again {
            break;
        }
    }
    let BoundSockets {
        listeners,
        mut errors,
    } = best.unwrap_or(BoundSockets {
        listeners: Vec::new(),
        errors: Vec::new(),
    });
    match errors.pop() {
        Some(error) if listeners.is_empty() => Err(error),
        last => {
            errors.extend(last);
            Ok(BoundSockets { listeners, errors })
        }
    }
}

fn bind_each_once(ips: &[IpAddr], mut port: u16) -> Result<BoundSockets, BindError> {
    let (mut listeners, mut failed) = (Vec::new(), Vec::new());
    for &ip in ips {
        match bind_one(SocketAddr::new(ip, port), true) {
            Ok(listener) => {
                port = listener.local_addr().map_or(port, |bound| bound.port());
                listeners.push(listener);
            }
            Err(error) if ip.is_ipv4() && is_in_use(&error) => {
                return Err((SocketAddr::new(ip, port), error));
            }
            Err(error) => failed.push((ip, error)),
        }
    }
    // An address that failed before the system picked the port is retried with the picked one too.
    let errors = failed
        .into_iter()
        .map(|(ip, error)| (SocketAddr::new(ip, port), error));
    let errors = errors.collect();
    Ok(BoundSockets { listeners, errors })
}

/// Binds all addresses of both families with one dual-stack socket, or of IPv4 alone while the system has no IPv6.
fn bind_any(port: u16) -> Result<BoundSockets, BindError> {
    let dual_stack = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match bind_one(dual_stack, false) {
        Ok(listener) => Ok(BoundSockets {
            listeners: vec![listener],
            errors: Vec::new(),
        }),
        Err(error) if is_address_missing(dual_stack, &error) => {
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            let listener = bind_one(v4, false).map_err(|error| (v4, error))?;
            let port = listener.local_addr().map_or(port, |bound| bound.port());
            Ok(BoundSockets {
                listeners: vec![listener],
                errors: vec![(SocketAddr::new(dual_stack.ip(), port), error)],
            })
        }
        // IPv4 alone would leave half of the port to another program, or hide an error that passes (EMFILE).
        Err(error) => Err((dual_stack, error)),
    }
}

/// Returns whether `address` could not be bound because this machine does not have it: IPv6 is disabled. A UDP socket
/// tells that apart from a failure that concerns this listener.
fn is_address_missing(address: SocketAddr, error: &io::Error) -> bool {
    let may_be_missing =
        error.kind() == io::ErrorKind::AddrNotAvailable || is_family_missing(error);
    may_be_missing
        && UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_err_and(|error| {
            error.kind() == io::ErrorKind::AddrNotAvailable || is_family_missing(&error)
        })
}

#[cfg(unix)]
fn is_family_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// WSAEAFNOSUPPORT.
#[cfg(not(unix))]
fn is_family_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(10047)
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
    reset_unless_closed(&socket2::SockRef::from(&socket));
    fd_reserve::check(&socket, FdUse::Listener)?;
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
            let owner = port_owner::of_address(address).await;
            port_owner::in_use(failure, owner)
        }
        io::ErrorKind::PermissionDenied => failure("permission denied")
            .hint("ports below 1024 need a privilege; choose a higher port"),
        io::ErrorKind::AddrNotAvailable => failure("this machine does not have the address")
            .hint("tunneld listens as soon as the address appears"),
        _ if fd_reserve::is_exhausted(error) => {
            failure(&error.to_string()).hint(fd_reserve::REMEDY)
        }
        _ => failure(&error.to_string()),
    }
}
