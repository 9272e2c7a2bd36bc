//! A TCP connection to the SSH port: all addresses of a name, in the manner of RFC 8305, and the socket's options.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tunneld_proto::text;

use crate::failure::{Failure, FailureKind};
use tunneld_config::model::{AddressFamily, Liveness, Route};

/// How long one address is tried.
const PER_ADDRESS: Duration = Duration::from_secs(5);
/// How long before the next address is tried beside the ones under way (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// All addresses of `host` in the order in which they are tried: families alternate.
pub(crate) async fn resolve(
    host: &str,
    port: u16,
    family: AddressFamily,
) -> Result<Vec<SocketAddr>, Failure> {
    let failed = |why: &str| {
        Failure::new(
            FailureKind::Resolve,
            format!("looking up {}: {}", text::escape(host), text::escape(why)),
        )
    };
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| {
            failed(&error.to_string()).hint("check the name and this machine's DNS")
        })?;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut leading = None;
    for address in found.filter(|address| is_of(address, family)) {
        if *leading.get_or_insert(address.is_ipv6()) == address.is_ipv6() {
            first.push(address);
        } else {
            second.push(address);
        }
    }
    let mut addresses = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let (one, two) = (first.next(), second.next());
        if one.is_none() && two.is_none() {
            break;
        }
        addresses.extend(one.into_iter().chain(two));
    }
    addresses.dedup();
    if addresses.is_empty() {
        return Err(failed(
            "it has no address of the family that address_family asks for",
        ));
    }
    Ok(addresses)
}

/// Connects to the first of `addresses` that answers.
pub(crate) async fn connect(
    addresses: Vec<SocketAddr>,
    route: &Route,
) -> Result<(TcpStream, Option<SocketAddr>), Failure> {
    let local = local_addresses(route).await?;
    let mut waiting = addresses.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut failures: Vec<(SocketAddr, io::Error)> = Vec::new();
    let mut begin_next = true;
    loop {
        if begin_next && let Some(address) = waiting.next() {
            let local = &local;
            under_way
                .push(async move { (address, connect_one(address, local, &route.liveness).await) });
        }
        if under_way.is_empty() {
            return Err(all_failed(&failures));
        }
        let more = waiting.len() > 0;
        begin_next = tokio::select! {
            Some((address, done)) = under_way.next() => match done {
                Ok(stream) => {
                    let local = stream.local_addr().ok();
                    return Ok((stream, local));
                }
                Err(error) => {
                    failures.push((address, error));
                    true
                }
            },
            () = tokio::time::sleep(STAGGER), if more => true,
        };
    }
}

fn is_of(address: &SocketAddr, family: AddressFamily) -> bool {
    match family {
        AddressFamily::Any => true,
        AddressFamily::Inet => address.is_ipv4(),
        AddressFamily::Inet6 => address.is_ipv6(),
    }
}

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
        .map_err(|error| failed(format!("looking for the interface {shown}: {error}")))?;
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

/// Such an address is of no use without its scope.
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
        let from = local
            .iter()
            .find(|local| local.is_ipv4() == address.is_ipv4())
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::AddrNotAvailable,
                    "the local address to dial from is of the other address family",
                )
            })?;
        socket.bind(SocketAddr::new(*from, 0))?;
    }
    socket.set_keepalive(liveness.tcp_keep_alive)?;
    let stream = timeout(PER_ADDRESS, socket.connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s"))??;
    Ok(stream)
}

fn all_failed(failures: &[(SocketAddr, io::Error)]) -> Failure {
    let all = |kind| !failures.is_empty() && failures.iter().all(|(_, error)| error.kind() == kind);
    let told: Vec<String> = failures
        .iter()
        .map(|(address, error)| format!("{address}: {error}"))
        .collect();
    let message = format!("connecting to {}", told.join("; "));
    let network = "check the network, the address and firewalls between here and there";
    if all(io::ErrorKind::ConnectionRefused) {
        Failure::new(FailureKind::ConnectRefused, message)
            .hint("no SSH server listens there now: check the port, and whether sshd runs")
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
    fn silence_is_told_from_a_refusal() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, TimedOut};
        for (kinds, wanted) in [
            (vec![TimedOut], FailureKind::Timeout),
            (vec![TimedOut, TimedOut], FailureKind::Timeout),
            (vec![TimedOut, HostUnreachable], FailureKind::Connect),
            (vec![ConnectionRefused, TimedOut], FailureKind::Connect),
            (vec![ConnectionRefused], FailureKind::ConnectRefused),
        ] {
            let address = SocketAddr::from(([192, 0, 2, 1], 22));
            let failures: Vec<_> = kinds.iter().map(|kind| (address, (*kind).into())).collect();
            assert_eq!(all_failed(&failures).kind, wanted, "{kinds:?}");
        }
    }
}
