//! Connects from this machine to the target of a remote forward, with Happy Eyeballs (RFC 8305) for names that have
//! several addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::local_socket::LocalSocket;
use crate::happy_eyeballs;
use tunneld_config::addr::{Endpoint, HostPort};
use tunneld_platform::fd_reserve::{self, FdUse};

/// The limit for name resolution and all connection attempts together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
                connect_first(happy_eyeballs::interleave(addresses)).await
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
    // Connections for remote forwards count as well: a flood at the server must not use up the daemon's descriptors.
    fd_reserve::check(&*socket.sock(), FdUse::Connection)?;
    Ok(socket)
}

/// Connects to the first address that answers. Returns the last error if none does.
async fn connect_first(addresses: Vec<SocketAddr>) -> io::Result<LocalSocket> {
    match happy_eyeballs::race(addresses, TcpStream::connect).await {
        Ok(stream) => Ok(stream.into()),
        Err(mut errors) => Err(match errors.pop() {
            Some((_, error)) => error,
            None => io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
