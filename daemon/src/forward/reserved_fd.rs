//! Keeps some file descriptors free of forwarded connections, for the control socket, the log and reconnects, so that a
//! flood of connections does not make the daemon unreachable.

use super::local_socket::LocalSocket;

/// Descriptors that connections may not use; at most half of the process's limit.
#[cfg(unix)]
const RESERVED_FDS: u64 = 32;

/// Returns whether the connection uses a descriptor of the reserve and must be dropped.
///
/// The system assigns the lowest free number (POSIX), so a number near the limit means that few are left. This needs no
/// count of the descriptors that other parts of the daemon have open.
#[cfg(unix)]
pub(super) fn is_in_reserve(socket: &LocalSocket) -> bool {
    use std::os::fd::AsRawFd;
    let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else {
        return false;
    };
    // Half at most: with a tiny limit some connections still have to be possible.
    let first_reserved = limit.saturating_sub(RESERVED_FDS.min(limit / 2));
    u64::try_from(socket.sock().as_raw_fd()).is_ok_and(|number| number >= first_reserved)
}

/// Always `false`: this system has no small limit on handles.
#[cfg(not(unix))]
pub(super) fn is_in_reserve(_: &LocalSocket) -> bool {
    false
}

/// Returns whether `accept` failed because the process or the system has no free descriptor (EMFILE, ENFILE).
#[cfg(unix)]
pub(super) fn is_exhausted(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    error.raw_os_error().is_some_and(|code| {
        code == Errno::MFILE.raw_os_error() || code == Errno::NFILE.raw_os_error()
    })
}

/// Always `false`: this system has no small limit on handles.
#[cfg(not(unix))]
pub(super) fn is_exhausted(_: &std::io::Error) -> bool {
    false
}

/// One open descriptor that is closed for as long as it takes to accept a connection and reset it. Without it a client
/// that cannot be served would hang in the kernel's accept queue.
#[derive(Debug)]
pub(super) struct ReservedFd(Option<std::fs::File>);

impl ReservedFd {
    /// Opens the descriptor. If none is free it is opened by a later [`ReservedFd::with_one_freed`].
    pub(super) fn new() -> Self {
        Self(Self::open())
    }

    /// Runs `accept` with one more free descriptor. Drops what it returns, and returns whether it returned something.
    pub(super) fn with_one_freed<T>(&mut self, accept: impl FnOnce() -> Option<T>) -> bool {
        self.0 = None;
        let accepted = accept().is_some();
        // Opened again at once; if another thread took the number, the next call works without it.
        self.0 = Self::open();
        accepted
    }

    fn open() -> Option<std::fs::File> {
        #[cfg(unix)]
        return std::fs::File::open("/dev/null").ok();
        #[cfg(not(unix))]
        None
    }
}
