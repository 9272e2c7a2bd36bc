//! Finds the process that listens on an address which a forward needs, for the hint to the user. Only on Linux, from
//! `/proc`; elsewhere the owner is unknown.

use crate::failure::Failure;

/// A process that listens on an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortOwner {
    /// The process id of the program that holds the port.
    pub(super) pid: u32,
    /// The process name of at most 15 bytes (`/proc/PID/comm`), control characters escaped.
    pub(super) name: String,
}

/// Returns the failure for an address in use. `failure` makes it from the reason; `owner` is `None` if unknown.
pub(super) fn in_use(failure: impl FnOnce(&str) -> Failure, owner: Option<PortOwner>) -> Failure {
    match owner {
        // The name of the daemon would not help: the user has to look at the other forward.
        Some(owner) if owner.pid == std::process::id() => {
            failure("the address is in use by another forward of this daemon")
                .hint("change the port of one of the two; tunnelctl status lists them")
        }
        Some(PortOwner { pid, name }) => failure(&format!(
            "the address is in use by {name} (pid {pid})"
        ))
        .hint("stop that process, or choose another port; tunneld listens as soon as the address is free"),
        None => failure("the address is in use").hint(
            "find the program that listens there, or choose another port; tunneld listens as soon as the address is free",
        ),
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{of_path, of_port};

#[cfg(not(target_os = "linux"))]
pub(super) async fn of_port(_: u16) -> Option<PortOwner> {
    std::future::ready(None).await
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(super) async fn of_path(_: &std::path::Path) -> Option<PortOwner> {
    std::future::ready(None).await
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use super::PortOwner;

    /// Returns the process that listens on a TCP port, on any address; `None` if it belongs to another user.
    pub(in crate::forward) async fn of_port(port: u16) -> Option<PortOwner> {
        // Not on the async thread: reading /proc takes long on a machine with many processes.
        let find = move || {
            ["/proc/net/tcp", "/proc/net/tcp6"]
                .into_iter()
                .filter_map(|table| fs::read_to_string(table).ok())
                // An IPv4 port may be held by a socket that is bound to `::`, which only the second table has.
                .find_map(|table| socket_owner(&tcp_inode(&table, port)?))
        };
        tokio::task::spawn_blocking(find).await.ok().flatten()
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

    /// Returns the inode of the socket that listens on the port, from `/proc/net/tcp` or `tcp6` (proc(5)): columns 2
    /// (local address), 4 (state, 0A is LISTEN) and 10 (inode).
    fn tcp_inode(table: &str, port: u16) -> Option<String> {
        let suffix = format!(":{port:04X}");
        table.lines().skip(1).find_map(|line| {
            let mut columns = line.split_ascii_whitespace().skip(1);
            let local = columns.next()?;
            let state = columns.nth(1)?;
            let inode = columns.nth(5)?;
            (state == "0A" && local.ends_with(&suffix)).then(|| inode.to_owned())
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
            has_socket.then(|| PortOwner {
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
                1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 222 1 0 100 0 0 10 0\n";
            assert_eq!(tcp_inode(tcp, 8080), Some("222".to_owned()));
            assert_eq!(tcp_inode(tcp, 8081), None);
            let unix = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
                0000000000000000: 00000002 00000000 00010000 0001 01 333 /run/a b.sock\n";
            assert_eq!(unix_inode(unix, b"/run/a b.sock"), Some("333".to_owned()));
            assert_eq!(unix_inode(unix, b"/run/b.sock"), None);
        }

        #[tokio::test]
        async fn the_owner_of_a_listener_in_this_process_is_found() {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(of_port(port).await.unwrap().pid, std::process::id());
        }
    }
}
