//! The TCP connection to the SSH port: looks the name up, binds the local address, sets the socket's options.
//! The order and timing of the attempts are in `happy_eyeballs`.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tunneld_proto::text;

use crate::failure::{Failure, FailureKind};
use crate::happy_eyeballs;
use crate::session::slots::Slot;
use tunneld_config::model::{AddressFamily, Liveness, Route};
use tunneld_platform::fd_reserve::{self, FdUse};

/// Limit for one address, so that a host that drops packets does not use up `connect_timeout` alone.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without traffic after which the kernel sends a probe, and the time between probes that are not answered.
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Looks up `host` and returns its addresses of the wanted family, in the order in which to try them. `slot` is given back
/// when the lookup ends.
///
/// # Errors
/// `Resolve` if the lookup fails or the host has no address of the family.
pub(crate) async fn resolve(
    host: &str,
    port: u16,
    family: AddressFamily,
    slot: Option<Slot>,
) -> Result<Vec<SocketAddr>, Failure> {
    let failed = |why: &str| {
        Failure::new(
            FailureKind::Resolve,
            format!("looking up {}: {}", text::escape(host), text::escape(why)),
        )
    };
    let found = look_up(host, port, slot).await.map_err(|error| {
        failed(&error.to_string()).hint("check the name and this machine's DNS")
    })?;
    let found = found.into_iter();
    let of_family = found.filter(|address| is_in_family(address, family));
    let mut addresses = happy_eyeballs::interleave(of_family);
    addresses.dedup();
    if addresses.is_empty() {
        return Err(failed(
            "it has no address of the family that address_family asks for",
        ));
    }
    Ok(addresses)
}

/// All addresses of `host`. The slot goes with the thread, which cannot be ended: the caller may give up earlier.
async fn look_up(host: &str, port: u16, slot: Option<Slot>) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let host = host.to_owned();
    let looked_up = tokio::task::spawn_blocking(move || {
        let found = (host.as_str(), port).to_socket_addrs();
        drop(slot);
        found.map(Iterator::collect)
    });
    looked_up
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Connects to the first of `addresses` that answers. Returns the stream and its local address, `None` if the system
/// does not know it.
///
/// # Errors
/// `BindFailed` if the local address cannot be determined, else what the addresses failed with.
pub(crate) async fn connect(
    addresses: Vec<SocketAddr>,
    route: &Route,
) -> Result<(TcpStream, Option<SocketAddr>), Failure> {
    let local = local_addresses(route).await?;
    let connect = |address| connect_one(address, &local, &route.liveness);
    let stream = happy_eyeballs::race(addresses, connect)
        .await
        .map_err(|errors| all_failed(&errors))?;
    let local = stream.local_addr().ok();
    Ok((stream, local))
}

fn is_in_family(address: &SocketAddr, family: AddressFamily) -> bool {
    match family {
        AddressFamily::Any => true,
        AddressFamily::Inet => address.is_ipv4(),
        AddressFamily::Inet6 => address.is_ipv6(),
    }
}

/// The local addresses to dial from, by `bind_address` or `bind_interface`. Empty if the kernel chooses.
async fn local_addresses(route: &Route) -> Result<Vec<IpAddr>, Failure> {
    let failed = |what: String| Failure::new(FailureKind::BindFailed, what);
    if let Some(bind) = route.bind_address.as_deref() {
        let found = tokio::net::lookup_host((bind, 0)).await.map_err(|error| {
            failed(format!(
                "looking up bind_address {}: {error}",
                text::escape(bind)
            ))
        })?;
        return Ok(found.map(|address| address.ip()).collect());
    }
    let Some(name) = route.bind_interface.as_deref() else {
        return Ok(Vec::new());
    };
    let shown = text::escape(name);
    let interfaces = netwatcher::list_interfaces()
        .map_err(|error| failed(format!("listing the interfaces for {shown}: {error}")))?;
    let found: Vec<IpAddr> = interfaces
        .values()
        .filter(|interface| interface.name == name)
        .flat_map(|interface| interface.ips.iter().map(|record| record.ip))
        .filter(|ip| !is_link_local(ip))
        .collect();
    match found.is_empty() {
        true => Err(failed(format!("the interface {shown} has no address now"))
            .hint("check bind_interface, and that the interface is up")),
        false => Ok(found),
    }
}

/// A link-local address cannot be bound without its scope, which the list of interfaces does not give.
fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

async fn connect_one(
    address: SocketAddr,
    local: &[IpAddr],
    liveness: &Liveness,
) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if !local.is_empty() {
        // The socket's family is fixed: an address of the other family cannot be bound to it.
        let from = local
            .iter()
            .find(|local| local.is_ipv4() == address.is_ipv4())
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::AddrNotAvailable,
                    "the local address to dial from is of the other IP version",
                )
            })?;
        socket.bind(SocketAddr::new(*from, 0))?;
    }
    if liveness.tcp_keep_alive {
        // The system's own times are hours: too long where this is the only sign of life (server_alive_interval = 0).
        let probes = socket2::TcpKeepalive::new()
            .with_time(TCP_KEEPALIVE_IDLE)
            .with_interval(TCP_KEEPALIVE_INTERVAL);
        socket2::SockRef::from(&socket).set_tcp_keepalive(&probes)?;
    }
    let stream = timeout(ADDRESS_TIMEOUT, socket.connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s"))??;
    fd_reserve::check(&stream, FdUse::Session)?;
    Ok(stream)
}

fn all_failed(failures: &[(SocketAddr, io::Error)]) -> Failure {
    // A kind of its own only if all addresses agree: one refusal among timeouts does not prove that no server runs.
    let all = |kind| !failures.is_empty() && failures.iter().all(|(_, error)| error.kind() == kind);
    let errors: Vec<String> = failures
        .iter()
        .map(|(address, error)| format!("{address}: {error}"))
        .collect();
    let message = format!("connecting to {}", errors.join("; "));
    let network = "check the network, the address and the firewalls in between";
    if failures
        .iter()
        .any(|(_, error)| fd_reserve::is_exhausted(error))
    {
        Failure::new(FailureKind::Connect, message).hint(fd_reserve::REMEDY)
    } else if all(io::ErrorKind::ConnectionRefused) {
        Failure::new(FailureKind::ConnectRefused, message)
            .hint("no SSH server listens there: check the port, and whether sshd runs")
    } else if all(io::ErrorKind::TimedOut) {
        Failure::new(FailureKind::Timeout, message).hint(network)
    } else {
        Failure::new(FailureKind::Connect, message).hint(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_and_refusals_have_different_kinds() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, TimedOut};
        for (kinds, expected) in [
            (vec![TimedOut], FailureKind::Timeout),
            (vec![TimedOut, TimedOut], FailureKind::Timeout),
            (vec![TimedOut, HostUnreachable], FailureKind::Connect),
            (vec![ConnectionRefused, TimedOut], FailureKind::Connect),
            (vec![ConnectionRefused], FailureKind::ConnectRefused),
        ] {
            let address = SocketAddr::from(([192, 0, 2, 1], 22));
            let failures: Vec<_> = kinds.iter().map(|kind| (address, (*kind).into())).collect();
            assert_eq!(all_failed(&failures).kind, expected, "{kinds:?}");
        }
    }
}
