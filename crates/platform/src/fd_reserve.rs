//! Keeps file descriptors free for what the daemon cannot work without.
//!
//! A process that has reached its limit (RLIMIT_NOFILE) cannot accept a control client, read known_hosts or dial. So
//! each use of descriptors that the configuration or clients can multiply stops some way below the limit: listeners
//! first, then connections, then sessions. What is left is for the control socket, files and child processes.
//!
//! The system assigns the lowest free number (POSIX), so a number near the limit means that few are left. This needs no
//! count of the descriptors that other parts of the daemon have open.

use std::io;

/// What to do when descriptors are short. Ends an error text or stands as its hint.
pub const REMEDY: &str =
    "raise the limit on open files (ulimit -n, or LimitNOFILE= in the service's unit)";

/// Uses of a descriptor that have a lower limit than the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdUse {
    /// A listening socket of a forward. It must leave room for the connections that it accepts.
    Listener,
    /// The socket of a client, or of a remote forward's target.
    Connection,
    /// The socket of an SSH session.
    Session,
}

impl FdUse {
    /// Returns the first descriptor number that this use may not have, if the process may have `limit` descriptors.
    fn first_reserved(self, limit: u64) -> u64 {
        // The fractions are for tiny limits, where some connections still have to be possible.
        let reserve = match self {
            Self::Listener => (limit / 8 * 5).min(48),
            Self::Connection => (limit / 2).min(32),
            Self::Session => (limit / 4).min(16),
        };
        limit.saturating_sub(reserve)
    }
}

/// Checks that a new descriptor leaves enough free ones. The caller closes it otherwise.
///
/// # Errors
/// The limit of the process, if the descriptor is in the reserve. Check [`is_exhausted`] with it.
#[cfg(unix)]
pub fn check(fd: &impl std::os::fd::AsRawFd, usage: FdUse) -> io::Result<()> {
    use rustix::process::{Resource, getrlimit};
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Ok(());
    };
    let number = u64::try_from(fd.as_raw_fd()).unwrap_or(0);
    if number < usage.first_reserved(limit) {
        return Ok(());
    }
    Err(io::Error::other(FdShortage { limit }))
}

/// Always succeeds: this system has no small limit on handles.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn check<T>(_: &T, _: FdUse) -> io::Result<()> {
    Ok(())
}

/// The descriptor that [`check`] refused, as the source of its error.
#[derive(Debug, thiserror::Error)]
#[error("too few file descriptors are left: the limit is {limit}")]
struct FdShortage {
    limit: u64,
}

/// Returns whether the error is a shortage of descriptors: EMFILE, ENFILE, or an error of [`check`].
pub fn is_exhausted(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<FdShortage>())
        || is_exhausted_code(error)
}

#[cfg(unix)]
fn is_exhausted_code(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.raw_os_error().is_some_and(|code| {
        code == Errno::MFILE.raw_os_error() || code == Errno::NFILE.raw_os_error()
    })
}

#[cfg(not(unix))]
fn is_exhausted_code(_: &io::Error) -> bool {
    false
}

/// One open descriptor that is closed for as long as it takes to accept a client and turn it away. Without it a client
/// that cannot be served would hang in the kernel's accept queue.
#[derive(Debug)]
pub struct SpareFd(Option<std::fs::File>);

impl SpareFd {
    /// Opens the descriptor. If none is free it is opened by a later [`SpareFd::with_one_freed`].
    #[expect(clippy::new_without_default, reason = "it opens a file")]
    pub fn new() -> Self {
        Self(Self::open())
    }

    /// Runs `accept` with one more free descriptor. Drops what it returns, and returns whether it returned something.
    pub fn with_one_freed<T>(&mut self, accept: impl FnOnce() -> Option<T>) -> bool {
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn listeners_stop_before_connections_and_connections_before_sessions() {
        for limit in [16, 64, 256, 1024, 1_048_576] {
            let [listener, connection, session] =
                [FdUse::Listener, FdUse::Connection, FdUse::Session]
                    .map(|usage| usage.first_reserved(limit));
            assert!(listener < connection, "{limit}");
            assert!(connection < session, "{limit}");
            assert!(session < limit, "{limit}");
        }
    }

    #[test]
    fn a_refused_descriptor_is_a_shortage_with_the_limit() {
        let error = io::Error::other(FdShortage { limit: 64 });
        assert!(is_exhausted(&error));
        assert!(error.to_string().ends_with("the limit is 64"));
        assert!(is_exhausted(&io::Error::from_raw_os_error(
            rustix::io::Errno::MFILE.raw_os_error()
        )));
        assert!(!is_exhausted(&io::Error::other("something else")));
        assert!(check(&std::fs::File::open("/dev/null").unwrap(), FdUse::Listener).is_ok());
    }
}
