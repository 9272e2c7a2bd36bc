//! Who is at the other end of a loopback connection.

use std::net::SocketAddr;

/// Returns whether the client at `peer`, connected to `local`, runs as another user than this process. False where the
/// system does not say.
pub(crate) async fn is_foreign(local: SocketAddr, peer: SocketAddr) -> bool {
    #[cfg(target_os = "linux")]
    {
        // Not on the async thread: the table is long on a machine with many connections.
        let look_up = tokio::task::spawn_blocking(move || uid_of(peer, local));
        let own = rustix::process::geteuid().as_raw();
        look_up.await.ok().flatten().is_some_and(|uid| uid != own)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (local, peer);
        std::future::ready(false).await
    }
}

/// The owner of the socket with this own and remote address, from `/proc/net/tcp` (proc(5)): columns 2 (local address), 3
/// (remote address) and 8 (uid). IPv4 only, which is what the page's server listens on.
#[cfg(target_os = "linux")]
fn uid_of(own: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (own, remote) = (proc_address(own)?, proc_address(remote)?);
    // A browser on a dual-stack socket is listed in the table of IPv6.
    find(&table, &own, &remote).or_else(|| {
        let table = std::fs::read_to_string("/proc/net/tcp6").ok()?;
        let mapped = |address: &str| format!("0000000000000000FFFF0000{address}");
        find(&table, &mapped(&own), &mapped(&remote))
    })
}

#[cfg(target_os = "linux")]
fn find(table: &str, own: &str, remote: &str) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let is_it = columns.next()? == own && columns.next()? == remote;
        let uid = columns.nth(4)?;
        is_it.then(|| uid.parse().ok()).flatten()
    })
}

/// An address as the kernel prints it: a 32-bit word in the machine's byte order, and the port.
#[cfg(target_os = "linux")]
fn proc_address(address: SocketAddr) -> Option<String> {
    match address {
        SocketAddr::V4(address) => {
            let word = u32::from_ne_bytes(address.ip().octets());
            Some(format!("{word:08X}:{:04X}", address.port()))
        }
        SocketAddr::V6(_) => None,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_client_of_a_connection_is_this_user() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(local).await.unwrap();
        let (_server, peer) = listener.accept().await.unwrap();
        let uid = uid_of(peer, local);
        assert_eq!(uid, Some(rustix::process::geteuid().as_raw()));
        assert!(!is_foreign(local, peer).await);
        drop(client);
        assert_eq!(uid_of("127.0.0.1:1".parse().unwrap(), local), None);
    }
}
