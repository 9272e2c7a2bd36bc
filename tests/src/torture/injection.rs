//! Which system calls fail, and with which errors.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};

/// One failure: the `when`th call of `call` in each thread fails with `error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The name of the system call, as strace prints it.
    pub call: String,
    /// The name of the error, such as `EMFILE`.
    pub error: String,
    /// Which call of a thread fails, from 1.
    pub when: u32,
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, error, when } = self;
        write!(f, "{call}:error={error}:when={when}")
    }
}

impl std::str::FromStr for Injection {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let mut next = |prefix: &str| {
            let part = parts.next().and_then(|part| part.strip_prefix(prefix));
            part.with_context(|| format!("`{text}` is not CALL:error=ERROR:when=N"))
        };
        Ok(Self {
            call: next("")?.to_owned(),
            error: next("error=")?.to_owned(),
            when: next("when=")?.parse()?,
        })
    }
}

/// Calls and the errors that they can fail with on a machine in trouble, by their man pages.
const ERRORS: &[(&str, &[&str])] = &[
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "EAFNOSUPPORT"]),
    ("bind", &["EADDRINUSE", "EACCES", "EADDRNOTAVAIL"]),
    ("listen", &["EADDRINUSE"]),
    ("accept4", &["EMFILE", "ECONNABORTED", "ENOMEM", "EINTR"]),
    (
        "connect",
        &["ECONNREFUSED", "ENETUNREACH", "ETIMEDOUT", "EADDRNOTAVAIL"],
    ),
    ("read", &["EIO", "EINTR"]),
    ("recvfrom", &["ECONNRESET", "EINTR"]),
    ("recvmsg", &["ECONNRESET", "EINTR"]),
    ("write", &["EPIPE", "ENOSPC", "EINTR"]),
    ("sendto", &["EPIPE", "ECONNRESET", "ENOBUFS"]),
    ("writev", &["EPIPE", "ECONNRESET"]),
    ("sendmsg", &["EPIPE", "ENOBUFS"]),
    ("openat", &["EMFILE", "ENOENT", "EACCES", "EIO"]),
    // Without EACCES: the mode of a parent directory is not wrong for one call.
    ("statx", &["EIO"]),
    ("newfstatat", &["EIO"]),
    ("fstat", &["EIO"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("epoll_wait", &["EINTR"]),
    ("epoll_create1", &["EMFILE"]),
    ("getsockopt", &["ENOBUFS"]),
    ("setsockopt", &["ENOBUFS", "ENOPROTOOPT"]),
    ("getsockname", &["ENOBUFS"]),
    ("getpeername", &["ENOTCONN"]),
    ("fcntl", &["EMFILE", "ENOLCK"]),
    ("clone3", &["EAGAIN"]),
    ("clone", &["EAGAIN"]),
    ("vfork", &["EAGAIN"]),
    ("pipe2", &["EMFILE"]),
    ("fsync", &["EIO"]),
    ("rename", &["ENOSPC", "EACCES"]),
    ("renameat", &["ENOSPC"]),
    ("unlink", &["EACCES", "EIO"]),
    ("mkdir", &["EACCES", "ENOSPC"]),
    ("getrandom", &["EINTR"]),
    ("inotify_init1", &["EMFILE"]),
    ("inotify_add_watch", &["ENOSPC"]),
    ("eventfd2", &["EMFILE"]),
    ("shutdown", &["ENOTCONN"]),
    ("poll", &["EINTR"]),
    ("ppoll", &["EINTR"]),
    ("socketpair", &["EMFILE"]),
    ("getdents64", &["EIO"]),
    ("readlink", &["EACCES"]),
    ("chmod", &["EPERM"]),
    ("fchmod", &["EPERM"]),
    ("flock", &["ENOLCK", "EINTR"]),
    ("dup", &["EMFILE"]),
    ("lseek", &["EINVAL"]),
    ("ftruncate", &["EIO"]),
    ("link", &["EPERM"]),
    ("getcwd", &["ENOENT"]),
    ("sysinfo", &["EFAULT"]),
    ("madvise", &["EINVAL"]),
];

/// Failures that the kernel does not produce, and so nothing has to survive; each with the reason.
const EXCLUDED: &[(&str, &str, &str)] = &[
    (
        "getrandom",
        "ENOSYS",
        "the kernel has had the call since 3.17, and aws-lc stops the process without it",
    ),
    (
        "prlimit64",
        "EPERM",
        "the daemon only reads its own limits, or lowers one, which is always allowed (getrlimit(2))",
    ),
    (
        "uname",
        "EFAULT",
        "the buffer is valid; the call has no other error (uname(2))",
    ),
    (
        "close",
        "EIO",
        "no local file system or socket reports it, and the descriptor is closed even then",
    ),
];

/// Panics that only a failure which the kernel does not produce can cause: the call, a part of the place, and the reason.
const EXCLUDED_PANICS: &[(&str, &str, &str)] = &[
    (
        "write",
        "tokio-1.",
        "a write of 8 bytes to the eventfd that wakes the runtime: it can only fail with EAGAIN (eventfd(2))",
    ),
    (
        "write",
        "notify-8.",
        "the same for the eventfd that wakes the watcher of the configuration directory",
    ),
];

impl Injection {
    /// Returns whether the panic shows that the call which failed cannot fail in this way: strace selects calls by their
    /// name and not by the kind of descriptor. `panic` is the line that names its place; `None` without a panic.
    pub(super) fn is_impossible(&self, panic: Option<&str>) -> bool {
        let matches = |(call, place, _): &(&str, &str, &str)| {
            *call == self.call && panic.is_some_and(|panic| panic.contains(place))
        };
        EXCLUDED_PANICS.iter().any(matches)
    }
}

/// Returns the failures for the calls of a trace that `strace -f` wrote: for each call and error the first ones, and
/// others spread evenly, at most `max_per_call` of each.
pub fn plan(trace: &str, max_per_call: u32) -> Vec<Injection> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in trace.lines() {
        // `PID CALL(…`; resumed calls and signals have another form.
        let mut words = line.split_whitespace();
        if let (Some(thread), Some(rest)) = (words.next(), words.next())
            && let Some((call, _)) = rest.split_once('(')
        {
            *counts.entry((call, thread)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<&str, u32> = BTreeMap::new();
    for ((call, _), count) in counts {
        let most = most.entry(call).or_default();
        *most = count.max(*most);
    }
    let mut injections = Vec::new();
    for (call, errors) in ERRORS {
        let count = most.get(call).copied().unwrap_or_default();
        for error in *errors {
            let excluded = |(name, value, _): &(&str, &str, &str)| name == call && value == error;
            if EXCLUDED.iter().any(excluded) {
                continue;
            }
            injections.extend(occurrences(count, max_per_call).map(|when| Injection {
                call: (*call).to_owned(),
                error: (*error).to_owned(),
                when,
            }));
        }
    }
    injections
}

/// The occurrences to try of a call that is made `count` times: all, or the first half of `max` and the rest evenly.
fn occurrences(count: u32, max: u32) -> impl Iterator<Item = u32> {
    let first = if count <= max { count } else { max / 2 };
    let rest = count - first;
    let spread = if count <= max { 0 } else { max - first };
    (1..=first).chain((1..=spread).map(move |step| first + step * rest / spread.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_the_first_occurrences_and_some_of_the_others() {
        let trace = "10 openat(AT_FDCWD, …) = 3\n10 close(3) = 0\n".repeat(100)
            + "11 openat(AT_FDCWD, …) = 4\n12 <... read resumed>) = 0\n";
        let whens: Vec<u32> = plan(&trace, 4)
            .iter()
            .filter(|injection| injection.error == "EIO")
            .map(|injection| injection.when)
            .collect();
        assert_eq!(whens, [1, 2, 51, 100]);
    }

    #[test]
    fn an_injection_is_written_as_it_is_read() {
        let text = "openat:error=EMFILE:when=5";
        assert_eq!(text.parse::<Injection>().unwrap().to_string(), text);
        assert!("openat:EMFILE".parse::<Injection>().is_err());
    }
}
