//! Keeps some file descriptors back from connections: for control, log and reconnects.

use super::local_socket::LocalSocket;

/// How many are kept back.
#[cfg(unix)]
const RESERVED_FDS: u64 = 32;

/// Whether this connection sits in the reserve and must go.
///
/// The system gives the lowest free number, so a number near the limit says that few are left.
#[cfg(unix)]
pub(super) fn is_in_reserve(socket: &LocalSocket) -> bool {
    use std::os::fd::AsRawFd;
    let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else {
        return false;
    };
    let first_reserved = limit.saturating_sub(RESERVED_FDS.min(limit / 2));
    u64::try_from(socket.sock().as_raw_fd()).is_ok_and(|number| number >= first_reserved)
}

/// Whether this connection sits in the reserve and must go: never, where handles have no small limit.
#[cfg(not(unix))]
pub(super) fn is_in_reserve(_: &LocalSocket) -> bool {
    false
}

/// Whether an accept failed for want of a descriptor.
#[cfg(unix)]
pub(super) fn is_exhausted(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    error.raw_os_error().is_some_and(|code| {
        code == Errno::MFILE.raw_os_error() || code == Errno::NFILE.raw_os_error()
    })
}

/// Whether an accept failed for want of a descriptor.
#[cfg(not(unix))]
pub(super) fn is_exhausted(_: &std::io::Error) -> bool {
    false
}

/// One descriptor in hand, given up for as long as it takes to accept a connection and close it:
/// else a client that cannot be served would hang in the backlog.
#[derive(Debug)]
pub(super) struct ReservedFd(Option<std::fs::File>);

impl ReservedFd {
    /// Takes one.
    pub(super) fn new() -> Self {
        Self(Self::open())
    }

    /// Runs `accept` with one descriptor more than there was.
    pub(super) fn with_one_freed<T>(&mut self, accept: impl FnOnce() -> Option<T>) -> bool {
        self.0 = None;
        let accepted = accept().is_some();
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
