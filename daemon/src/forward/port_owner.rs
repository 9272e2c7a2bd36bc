//! Finds the process that listens on an address which a forward needs, for the hint to the user. Only on Linux, from
//! `/proc`; elsewhere the owner is unknown.

use crate::failure::Failure;

/// The transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// Who listens on an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PortOwner {
    /// A process whose open files this process may see.
    Process {
        /// The process id.
        pid: u32,
        /// The process name of at most 15 bytes (`/proc/PID/comm`), control characters escaped.
        name: String,
    },
    /// A process of another user, which is all that `/proc` says about it.
    OtherUser {
        /// The user id.
        uid: u32,
    },
}

/// Returns the failure for an address in use. `failure` makes it from the reason; `owner` is `None` if unknown.
pub(super) fn in_use(failure: impl FnOnce(&str) -> Failure, owner: Option<PortOwner>) -> Failure {
    match owner {
        Some(PortOwner::Process { pid, .. }) if pid == std::process::id() => {
            failure("the address is in use by another forward of this daemon")
                .hint("change the port of one of the two; tunnelctl status lists them")
        }
        Some(PortOwner::Process { pid, name }) => failure(&format!(
            "the address is in use by {name} (pid {pid})"
        ))
        .hint("stop that process, or choose another port; tunneld listens as soon as the address is free"),
        Some(PortOwner::OtherUser { uid }) => failure(&format!(
            "the address is in use by a process of another user (uid {uid})"
        ))
        .hint("choose another port, or have that process stopped; tunneld listens as soon as the address is free"),
        None => failure("the address is in use").hint(
            "find the program that listens there, or choose another port; tunneld listens as soon as the address is free",
        ),
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{of_address, of_path};

#[cfg(not(target_os = "linux"))]
pub(super) async fn of_address(_: std::net::SocketAddr, _: Transport) -> Option<PortOwner> {
    std::future::ready(None).await
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(super) async fn of_path(_: &std::path::Path) -> Option<PortOwner> {
    std::future::ready(None).await
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use super::{PortOwner, Transport};

    /// Returns the socket that keeps an address from being bound: the one on this address, else one on all addresses.
    /// Any listener on the port keeps the unspecified address from being bound.
    pub(in crate::forward) async fn of_address(
        address: SocketAddr,
        transport: Transport,
    ) -> Option<PortOwner> {
        // Not on the async thread: reading /proc takes long on a machine with many processes.
        let find = move || {
            let tables = match transport {
                Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
                Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
            };
            let tables = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
            let find = |ip: Option<IpAddr>| {
                let local = ip.map_or_else(String::new, proc_address);
                let suffix = format!("{local}:{:04X}", address.port());
                tables
                    .iter()
                    .find_map(|table| listener(table, transport, &suffix))
            };
            let ip = address.ip();
            let found = if ip.is_unspecified() {
                find(None)
            } else {
                find(Some(ip))
                    .or_else(|| find(Some(Ipv6Addr::UNSPECIFIED.into())))
                    .or_else(|| find(Some(Ipv4Addr::UNSPECIFIED.into())))
            };
            let (inode, uid) = found?;
            Some(socket_owner(&inode).unwrap_or(PortOwner::OtherUser { uid }))
        };
        tokio::task::spawn_blocking(find).await.ok().flatten()
    }

    /// Returns an address as the kernel prints it in `/proc/net/tcp` and `tcp6`: 32-bit words in the machine's byte order.
    fn proc_address(ip: IpAddr) -> String {
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        match ip {
            // With a space in front, as in the table, so that no IPv6 address ends with it.
            IpAddr::V4(ip) => format!(" {}", word(ip.octets())),
            IpAddr::V6(ip) => {
                let octets = ip.octets();
                let (words, _) = octets.as_chunks::<4>();
                words.iter().map(|&bytes| word(bytes)).collect()
            }
        }
    }

    /// Returns the process that listens on a Unix socket; `None` if it belongs to another user.
    pub(in crate::forward) async fn of_path(path: &Path) -> Option<PortOwner> {
        let path: PathBuf = path.to_owned();
        let find = move || {
            let table = fs::read("/proc/net/unix").ok()?;
            socket_owner(&unix_inode(&table, path.as_os_str().as_bytes())?)
        };
        tokio::task::spawn_blocking(find).await.ok().flatten()
    }

    /// Returns the inode and the user id of the socket that listens on a local address that ends with `suffix`, from
    /// `/proc/net/tcp` and the like (proc(5)): columns 2 (local address), 4 (state: 0A is LISTEN, 07 a UDP socket that is
    /// not connected), 8 (uid) and 10 (inode).
    fn listener(table: &str, transport: Transport, suffix: &str) -> Option<(String, u32)> {
        let listening = match transport {
            Transport::Tcp => "0A",
            Transport::Udp => "07",
        };
        table.lines().skip(1).find_map(|line| {
            let mut columns = line.split_ascii_whitespace().skip(1);
            let local = format!(" {}", columns.next()?);
            let state = columns.nth(1)?;
            let uid = columns.nth(3)?.parse().ok()?;
            let inode = columns.nth(1)?;
            (state == listening && local.ends_with(suffix)).then(|| (inode.to_owned(), uid))
        })
    }

    /// Returns the inode of the socket bound to the path, from `/proc/net/unix`: columns 7 (inode) and 8 (path). Matched
    /// from the end of the line because a path may contain spaces.
    fn unix_inode(table: &[u8], path: &[u8]) -> Option<String> {
        table.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
            let rest = line.strip_suffix(path)?.strip_suffix(b" ")?;
            let inode = std::str::from_utf8(rest)
                .ok()?
                .split_ascii_whitespace()
                .nth(6)?;
            Some(inode.to_owned())
        })
    }

    /// Returns the process that has the socket open. `None` for other users' processes: their `fd` folders are not
    /// readable.
    fn socket_owner(inode: &str) -> Option<PortOwner> {
        let socket_link = PathBuf::from(format!("socket:[{inode}]"));
        fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let has_socket = fs::read_dir(process.path().join("fd"))
                .ok()?
                .flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == socket_link));
            let name = || fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            has_socket.then(|| PortOwner::Process {
                pid,
                name: tunneld_proto::text::escape(name().trim_end()),
            })
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_inode_is_found_in_the_proc_tables() {
            let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                0: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000  1000        0 111 1 0 20 4 30 10 -1\n   \
                1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 222 1 0 100 0 0 10 0\n";
            let found = Some(("222".to_owned(), 1001));
            assert_eq!(listener(tcp, Transport::Tcp, ":1F90"), found);
            assert_eq!(listener(tcp, Transport::Udp, ":1F90"), None);
            #[cfg(target_endian = "little")]
            {
                let loopback = proc_address(Ipv4Addr::LOCALHOST.into());
                assert_eq!(
                    listener(tcp, Transport::Tcp, &format!("{loopback}:1F90")),
                    found
                );
            }
            let any = proc_address(Ipv4Addr::UNSPECIFIED.into());
            assert_eq!(listener(tcp, Transport::Tcp, &format!("{any}:1F90")), None);
            assert_eq!(listener(tcp, Transport::Tcp, ":1F91"), None);
            let unix = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
                0000000000000000: 00000002 00000000 00010000 0001 01 333 /run/a b.sock\n";
            assert_eq!(unix_inode(unix, b"/run/a b.sock"), Some("333".to_owned()));
            assert_eq!(unix_inode(unix, b"/run/b.sock"), None);
        }

        #[tokio::test]
        async fn the_owner_is_that_of_the_address_and_not_only_of_the_port() {
            let ours = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = ours.local_addr().unwrap();
            let owner = of_address(address, Transport::Tcp).await;
            let pid = std::process::id();
            assert!(matches!(owner, Some(PortOwner::Process { pid: found, .. }) if found == pid));
            let other = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port());
            assert_eq!(of_address(other, Transport::Tcp).await, None);
            assert_eq!(of_address(address, Transport::Udp).await, None);
            let all = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
            assert!(of_address(all, Transport::Tcp).await.is_some());
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let owner = of_address(udp.local_addr().unwrap(), Transport::Udp).await;
            assert!(matches!(owner, Some(PortOwner::Process { pid: found, .. }) if found == pid));
        }
    }
}
