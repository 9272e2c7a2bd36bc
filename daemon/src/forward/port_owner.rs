//! Finds who holds an address that we want, so that a person knows whom to stop. Linux tells it in /proc.

use crate::failure::Failure;

/// A process that holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortOwner {
    /// Its id.
    pub(super) pid: u32,
    /// Its name, escaped.
    pub(super) name: String,
}

/// The failure of an address in use, with its holder where known.
pub(super) fn in_use(failure: impl FnOnce(&str) -> Failure, holder: Option<PortOwner>) -> Failure {
    match holder {
        Some(holder) if holder.pid == std::process::id() => {
            failure("the address is in use by another forward of this daemon")
                .hint("give one of the two another port; tunnelctl status lists them")
        }
        Some(PortOwner { pid, name }) => failure(&format!(
            "the address is in use by {name} (pid {pid})"
        ))
        .hint("stop that process, or choose another port; it is taken as soon as it is free"),
        None => failure("the address is in use").hint(
            "find who listens there, or choose another port; it is taken as soon as it is free",
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

    /// Who listens at a TCP port, on any address.
    pub(in crate::forward) async fn of_port(port: u16) -> Option<PortOwner> {
        // Reading /proc takes long on a machine with many processes.
        let find = move || {
            ["/proc/net/tcp", "/proc/net/tcp6"]
                .into_iter()
                .filter_map(|table| fs::read_to_string(table).ok())
                .find_map(|table| owner(&tcp_inode(&table, port)?))
        };
        tokio::task::spawn_blocking(find).await.ok().flatten()
    }

    /// Who listens at a Unix socket.
    pub(in crate::forward) async fn of_path(path: &Path) -> Option<PortOwner> {
        let path: PathBuf = path.to_owned();
        let find = move || {
            let table = fs::read("/proc/net/unix").ok()?;
            owner(&unix_inode(&table, path.as_os_str().as_bytes())?)
        };
        tokio::task::spawn_blocking(find).await.ok().flatten()
    }

    /// The inode of the socket that listens at the port: columns 2 (local), 4 (state, 0A is LISTEN) and 10 (inode).
    fn tcp_inode(table: &str, port: u16) -> Option<String> {
        let wanted = format!(":{port:04X}");
        table.lines().skip(1).find_map(|line| {
            let mut columns = line.split_ascii_whitespace().skip(1);
            let local = columns.next()?;
            let state = columns.nth(1)?;
            let inode = columns.nth(5)?;
            (state == "0A" && local.ends_with(&wanted)).then(|| inode.to_owned())
        })
    }

    /// The inode of the socket bound to the path: columns 7 and 8.
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

    /// The process that has the socket open; one of other users is not told.
    fn owner(inode: &str) -> Option<PortOwner> {
        let wanted = PathBuf::from(format!("socket:[{inode}]"));
        fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let holds = fs::read_dir(process.path().join("fd"))
                .ok()?
                .flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == wanted));
            let name = || fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holds.then(|| PortOwner {
                pid,
                name: tunneld_proto::text::escape(name().trim_end()),
            })
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_tables_are_read_by_column() {
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
        async fn our_own_listener_is_found() {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(of_port(port).await.unwrap().pid, std::process::id());
        }
    }
}
