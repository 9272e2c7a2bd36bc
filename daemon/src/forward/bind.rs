//! Binds the addresses of a listener: TCP, and for DNS the same port over UDP. Which addresses a forward's listener has and
//! what becomes of its connections is in `listener`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;
use tunneld_proto::text::escape;

use super::local_socket::{LISTEN_BACKLOG, reset_unless_closed};
use super::port_owner::{self, Transport};
use crate::failure::{Failure, FailureKind};
use tunneld_platform::fd_reserve::{self, FdUse};

/// How many random ports are tried until one is free on both loopback addresses, and for UDP.
const MAX_PORT_TRIES: usize = 16;
/// How long the resolution of a listen address's name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// The bytes of datagrams that the system may queue. A datagram counts with about 800 bytes, however short it is: the
/// usual 208 KiB would lose queries of a burst of 300.
const DATAGRAM_QUEUE: usize = 1024 * 1024;

/// Resolves a listen address, IPv4 addresses first. A name must resolve to loopback addresses only: its meaning can
/// change, and the forward would then be exposed without a change of the configuration. To be reachable from other
/// machines the user configures an address.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<IpAddr>, Failure> {
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

/// What is bound at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortKind {
    Tcp,
    /// TCP and UDP on the same port, for DNS.
    TcpAndUdp,
}

/// A bound address.
#[derive(Debug)]
pub(super) struct BoundPort {
    pub(super) tcp: TcpListener,
    /// The socket of the same address. `None` with [`PortKind::Tcp`].
    pub(super) udp: Option<Arc<UdpSocket>>,
}

/// The address that could not be bound, and why.
#[derive(Debug)]
pub(super) struct BindError {
    pub(super) address: SocketAddr,
    transport: Transport,
    error: io::Error,
}

/// The sockets of one listen address, and the addresses that could not be bound. At least one port, unless a name has no
/// address.
pub(super) struct BoundSockets {
    pub(super) ports: Vec<BoundPort>,
    pub(super) errors: Vec<BindError>,
}

/// Binds `port` on each of `ips`, as many as possible. With port 0 all get the same port, which the system picks for the
/// first.
///
/// An IPv4 address that is in use fails them all: a client that connects to it would reach another program. Another
/// address that fails is among the errors, and the caller tries it again.
pub(super) fn bind_each(
    ips: &[IpAddr],
    port: u16,
    kind: PortKind,
) -> Result<BoundSockets, BindError> {
    let tries = if port == 0 && ips.len() > 1 {
        MAX_PORT_TRIES
    } else {
        1
    };
    // The attempt that bound the most addresses.
    let mut best: Option<BoundSockets> = None;
    for _ in 0..tries {
        let attempt = bind_each_once(ips, port, kind)?;
        // Another program has the port that the system picked on the other family: a new pick may be free on both.
        let pick_again = attempt.errors.iter().any(|failed| is_in_use(&failed.error));
        if best
            .as_ref()
            .is_none_or(|best| attempt.ports.len() > best.ports.len())
        {
            best = Some(attempt);
        }
        if !pick_again {
            break;
        }
    }
    let BoundSockets { ports, mut errors } = best.unwrap_or(BoundSockets {
        ports: Vec::new(),
        errors: Vec::new(),
    });
    match errors.pop() {
        Some(error) if ports.is_empty() => Err(error),
        last => {
            errors.extend(last);
            Ok(BoundSockets { ports, errors })
        }
    }
}

fn bind_each_once(
    ips: &[IpAddr],
    mut port: u16,
    kind: PortKind,
) -> Result<BoundSockets, BindError> {
    let (mut ports, mut errors) = (Vec::new(), Vec::new());
    for &ip in ips {
        match bind_port(SocketAddr::new(ip, port), true, kind) {
            Ok(bound) => {
                port = bound.tcp.local_addr().map_or(port, |bound| bound.port());
                ports.push(bound);
            }
            Err(failed) if ip.is_ipv4() && is_in_use(&failed.error) => return Err(failed),
            Err(failed) => errors.push(failed),
        }
    }
    // An address that failed before the system picked the port is retried with the picked one too.
    for failed in &mut errors {
        failed.address.set_port(port);
    }
    Ok(BoundSockets { ports, errors })
}

/// Binds all addresses of both families with one dual-stack socket, or of IPv4 alone while the system has no IPv6.
pub(super) fn bind_any(port: u16, kind: PortKind) -> Result<BoundSockets, BindError> {
    let dual_stack = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match bind_port(dual_stack, false, kind) {
        Ok(bound) => Ok(BoundSockets {
            ports: vec![bound],
            errors: Vec::new(),
        }),
        Err(mut failed) if is_address_missing(&failed) => {
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            let bound = bind_port(v4, false, kind)?;
            let port = bound.tcp.local_addr().map_or(port, |bound| bound.port());
            failed.address.set_port(port);
            Ok(BoundSockets {
                ports: vec![bound],
                errors: vec![failed],
            })
        }
        // IPv4 alone would leave half of the port to another program, or hide an error that passes (EMFILE).
        Err(failed) => Err(failed),
    }
}

/// Returns whether an address could not be bound because this machine does not have it: IPv6 is disabled. A UDP socket
/// tells that apart from a failure that concerns this listener.
pub(super) fn is_address_missing(failed: &BindError) -> bool {
    let is_missing = |error: &io::Error| {
        error.kind() == io::ErrorKind::AddrNotAvailable || is_family_missing(error)
    };
    is_missing(&failed.error)
        && std::net::UdpSocket::bind(SocketAddr::new(failed.address.ip(), 0))
            .is_err_and(|error| is_missing(&error))
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

/// Binds one address. With port 0 the system picks one, and UDP gets the port of TCP.
pub(super) fn bind_port(
    address: SocketAddr,
    v6_only: bool,
    kind: PortKind,
) -> Result<BoundPort, BindError> {
    let mut tries = if address.port() == 0 {
        MAX_PORT_TRIES
    } else {
        1
    };
    loop {
        tries -= 1;
        let failed = |transport, address| {
            move |error| BindError {
                address,
                transport,
                error,
            }
        };
        let tcp = bind_tcp(address, v6_only).map_err(failed(Transport::Tcp, address))?;
        if kind == PortKind::Tcp {
            return Ok(BoundPort { tcp, udp: None });
        }
        let bound = tcp.local_addr().unwrap_or(address);
        match bind_udp(bound, v6_only) {
            Ok(udp) => {
                let udp = Some(Arc::new(udp));
                return Ok(BoundPort { tcp, udp });
            }
            // What the system picks is free for TCP; another program may have it for UDP.
            Err(error) if is_in_use(&error) && tries > 0 => {}
            Err(error) => return Err(failed(Transport::Udp, bound)(error)),
        }
    }
}

fn bind_tcp(address: SocketAddr, v6_only: bool) -> io::Result<TcpListener> {
    let socket = new_socket(address, v6_only, Transport::Tcp)?;
    // On Unix this allows binding a port whose old connections are in TIME_WAIT. On Windows it would allow two programs
    // to share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    reset_unless_closed(&socket2::SockRef::from(&socket));
    fd_reserve::check(&socket, FdUse::Listener)?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Without the option to reuse the address: with it, two programs could take each other's datagrams.
fn bind_udp(address: SocketAddr, v6_only: bool) -> io::Result<UdpSocket> {
    let socket = new_socket(address, v6_only, Transport::Udp)?;
    socket.bind(&address.into())?;
    fd_reserve::check(&socket, FdUse::Listener)?;
    // The system may grant less, and the queue is then shorter.
    let _ = socket.set_recv_buffer_size(DATAGRAM_QUEUE);
    UdpSocket::from_std(socket.into())
}

fn new_socket(
    address: SocketAddr,
    v6_only: bool,
    transport: Transport,
) -> io::Result<socket2::Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = socket2::Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// Describes why an address could not be bound, with a hint.
pub(super) async fn bind_failure(failed: &BindError) -> Failure {
    let BindError {
        address,
        transport,
        error,
    } = failed;
    let over = match transport {
        Transport::Tcp => "",
        Transport::Udp => " over UDP",
    };
    let failure = |reason: &str| {
        Failure::new(
            FailureKind::BindFailed,
            format!("cannot listen on {address}{over}: {reason}"),
        )
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = port_owner::of_address(*address, *transport).await;
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
