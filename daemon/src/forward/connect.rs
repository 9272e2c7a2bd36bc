//! Connects from this machine to the target of a remote forward, with Happy Eyeballs (RFC 8305) for names that have
//! several addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::local_socket::LocalSocket;
use tunneld_config::addr::{Endpoint, HostPort};

/// The limit for name resolution and all connection attempts together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an attempt runs alone before the next address is tried in parallel (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to an endpoint.
///
/// # Errors
/// The error of the last attempt; `TimedOut` after [`CONNECT_TIMEOUT`]; `Other` if the connection would use a file
/// descriptor of the reserve.
pub(super) async fn connect(to: &Endpoint) -> io::Result<LocalSocket> {
    let attempt = async {
        match to {
            Endpoint::Tcp(HostPort { host, port }) => {
                let addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
                connect_first(interleaved(addresses.collect())).await
            }
            #[cfg(unix)]
            Endpoint::Unix(path) => Ok(tokio::net::UnixStream::connect(path).await?.into()),
            #[cfg(not(unix))]
            Endpoint::Unix(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "Unix sockets are not supported on this system",
            )),
        }
    };
    let socket = timeout(CONNECT_TIMEOUT, attempt)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s"))??;
    if super::reserved_fd::is_in_reserve(&socket) {
        return Err(io::Error::other("too few file descriptors are left"));
    }
    Ok(socket)
}

/// Orders the addresses so that IPv4 and IPv6 alternate (RFC 8305 §4), beginning with the family of the first.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(same.next());
        all.extend(other.next());
        if all.len() == before {
            return all;
        }
    }
}

/// Returns the first connection that succeeds. The next address is tried when an attempt fails or [`ATTEMPT_DELAY`] has
/// passed. Dropping the other attempts closes their sockets.
async fn connect_first(addresses: Vec<SocketAddr>) -> io::Result<LocalSocket> {
    let mut addresses = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let next = addresses.next();
        let started_one = next.is_some();
        attempts.extend(next.map(TcpStream::connect));
        if attempts.is_empty() {
            return Err(error);
        }
        let finished = tokio::select! {
            finished = attempts.next() => finished,
            () = sleep(ATTEMPT_DELAY), if started_one => None,
        };
        match finished {
            Some(Ok(stream)) => return Ok(stream.into()),
            Some(Err(failed)) => error = failed,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_alternate() {
        let parse = |all: &[&str]| all.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(
            interleaved(parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"])),
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"])
        );
        assert_eq!(interleaved(vec![]), vec![]);
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_is_refused() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = closed.local_addr().unwrap();
        drop(closed);
        let alive = listener.local_addr().unwrap();
        assert_eq!(
            connect_first(vec![dead, alive]).await.unwrap().peer(),
            Some(alive)
        );
        let error = connect_first(vec![dead]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
