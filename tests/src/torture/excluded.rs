//! The failures that the torture run does not play, and the panics that only such a failure can cause.

/// Pairs that are not played: the families of calls by their usual names, the errors (`*` for each error of the call), and
/// why the kernel does not return it to the daemon, or why strace cannot show what the kernel would do.
pub(super) const EXCLUDED: &[(&str, &str, &str)] = &[
    (
        "access arch_prctl pread64 set_robust_list",
        "*",
        "only the dynamic loader and the start of a thread in the C library make it, before any code of the \
         daemon",
    ),
    (
        "brk mmap",
        "*",
        "without memory for the allocator, Rust stops the process; the loader and thread stacks use it too",
    ),
    (
        "close",
        "*",
        "strace skips the call, so the descriptor stays open; the kernel closes it whatever it returns \
         (close(2))",
    ),
    (
        "close_range dup2 execve setpgid",
        "*",
        "a child makes it between fork and exec: strace counts per thread, so it would fail in each new \
         child, not once",
    ),
    (
        "futex",
        "*",
        "strace skips the call: a wake-up that is skipped is lost, which the kernel does not do",
    ),
    (
        "lseek",
        "*",
        "the offset is 0 and the descriptor is a regular file, which is always allowed",
    ),
    (
        "prctl rt_sigaction rt_sigprocmask sigaltstack",
        "*",
        "the arguments are constants or valid memory, and the call uses nothing that can run out",
    ),
    (
        "prlimit64",
        "*",
        "the daemon only reads its own limits, or lowers one, which is always allowed (getrlimit(2))",
    ),
    (
        "sched_getaffinity",
        "*",
        "a process may always read its own processors, and the buffer is valid",
    ),
    (
        "sysinfo uname",
        "*",
        "the buffer is valid, and the call has no other error",
    ),
    (
        "timerfd_settime",
        "*",
        "the descriptor and the times are valid, and the flag that cancels a timer is not used",
    ),
    (
        "accept4 recvfrom sendto read writev write",
        "EAGAIN",
        "readiness came before it; strace skips the call, so the event that the kernel would send later does \
         not come",
    ),
    (
        "openat",
        "EAGAIN",
        "it needs a lease of another process on the file, and the daemon's files have none",
    ),
    (
        "fcntl",
        "EACCES EAGAIN EDEADLK EINTR ENOLCK EPERM",
        "these are errors of record locks and of changed flags; the daemon duplicates descriptors and reads \
         flags",
    ),
    (
        "flock",
        "EINTR",
        "the lock is asked for with LOCK_NB, which does not wait",
    ),
    (
        "bind",
        "ENOENT EROFS",
        "the directory of the control socket was checked or made just before",
    ),
    (
        "chmod",
        "EACCES ENOENT ENOMEM",
        "the file is named by a descriptor, so no path is looked up",
    ),
    (
        "chown",
        "EACCES ENOENT ENOMEM EROFS",
        "the file is named by a descriptor that is open for writing",
    ),
    (
        "clone3",
        "EACCES EBUSY EEXIST ENOSPC EPERM EUSERS",
        "it is an error of namespaces, control groups or chosen ids, which are not used",
    ),
    (
        "connect",
        "EACCES",
        "it is an error of broadcast addresses and of the mode of a socket file, which stays as it is",
    ),
    (
        "connect",
        "EADDRINUSE EAFNOSUPPORT EALREADY EINTR EISCONN EPROTOTYPE EINPROGRESS",
        "each socket is new, not bound, of the address's family, and connects once without blocking; strace \
         skips the call, so EINPROGRESS would have no end",
    ),
    (
        "epoll_ctl",
        "EEXIST ENOENT EPERM ELOOP",
        "each descriptor is added once, removed once, can be polled and is no epoll",
    ),
    (
        "eventfd2 pidfd_open timerfd_create",
        "ENODEV",
        "every supported kernel has anonymous inodes",
    ),
    (
        "fsync",
        "EROFS",
        "the descriptor is a regular file that was written to",
    ),
    (
        "ftruncate",
        "EACCES EPERM EROFS",
        "the file is open for writing and has no seal",
    ),
    (
        "getcwd",
        "ERANGE",
        "the C library and Rust call again with a larger buffer; strace would not change the size",
    ),
    (
        "statx",
        "EACCES",
        "it is the mode of a parent directory, which is not wrong for one call",
    ),
    (
        "statx",
        "ENOENT",
        "the name is there: a file that is missing for a moment comes back as a new or a renamed one",
    ),
    (
        "getdents64",
        "ENOENT",
        "the kernel returns it for a directory that was removed, and the C library reads it as the end",
    ),
    (
        "getrandom",
        "EAGAIN",
        "the pool is ready long before a service starts, and stays ready (getrandom(2))",
    ),
    (
        "getsockopt",
        "ENOPROTOOPT",
        "SO_ERROR and SO_PEERCRED exist in every kernel",
    ),
    (
        "inotify_add_watch",
        "EEXIST",
        "it needs IN_MASK_CREATE, which is not used",
    ),
    (
        "ioctl",
        "ENOTTY",
        "the request exists for every socket (netdevice(7))",
    ),
    (
        "link rename mkdir openat",
        "EEXIST",
        "it says that the name exists, which the injection does not make true",
    ),
    (
        "link unlink rename mkdir",
        "ENOENT",
        "the directory or the file was made just before; to lose it is no failure of one call",
    ),
    (
        "madvise",
        "EACCES EAGAIN EBUSY EHWPOISON EIO ENOMEM EPERM",
        "the only advice is MADV_WIPEONFORK, for one page that is mapped; it can only be unknown to the \
         kernel",
    ),
    (
        "mkdir rename unlink openat",
        "EPERM",
        "it is an error of immutable files and of file systems without the function, which stay as they are",
    ),
    (
        "pidfd_open",
        "ESRCH",
        "the child was not waited for yet, so it exists",
    ),
    (
        "readlink",
        "ENOENT",
        "each part of the path was found just before",
    ),
    (
        "recvfrom",
        "ECONNREFUSED EHOSTUNREACH ENOTCONN",
        "a TCP connection reports them at connect, and a Unix socket never",
    ),
    (
        "sendto writev write",
        "EDESTADDRREQ",
        "the socket is connected",
    ),
    (
        "sendto",
        "EACCES EALREADY EISCONN EMSGSIZE ENOTCONN",
        "the socket is a connected stream",
    ),
    (
        "socketpair",
        "EAFNOSUPPORT",
        "every supported kernel has Unix sockets",
    ),
    (
        "timerfd_create",
        "EPERM",
        "it is an error of alarm clocks, which are not used",
    ),
    (
        "wait4",
        "ECHILD",
        "the child is the daemon's own and is waited for once",
    ),
    (
        "write writev",
        "EPERM",
        "it is an error of sealed files, which are not used",
    ),
    ("writev", "EDQUOT EIO ENOSPC", "it writes to sockets only"),
    (
        "accept4 bind chmod chown connect dup epoll_ctl epoll_wait fcntl flock fsync ftruncate getdents64 \
         getpeername getsockname getsockopt inotify_add_watch inotify_rm_watch ioctl link listen madvise \
         mkdir openat read readlink recvfrom rename sendto setsockopt shutdown statx unlink write writev",
        "EBADF",
        "a descriptor is owned by one value and is closed only with it",
    ),
    (
        "accept4 bind chmod chown connect epoll_wait fcntl getcwd getdents64 getpeername getrandom \
         getsockname getsockopt inotify_add_watch ioctl link madvise mkdir openat pipe2 poll read readlink \
         recvfrom rename sendto setsockopt socketpair statx unlink write writev",
        "EFAULT",
        "the buffers are valid memory",
    ),
    (
        "accept4 bind connect getpeername getsockname getsockopt listen recvfrom sendto setsockopt shutdown",
        "ENOTSOCK",
        "the descriptor is a socket",
    ),
    (
        "accept4 bind chmod chown clone3 epoll_create1 epoll_ctl epoll_wait eventfd2 fcntl flock fsync \
         ftruncate getcwd getdents64 getpeername getrandom getsockname getsockopt inotify_add_watch \
         inotify_init1 inotify_rm_watch ioctl kill link mkdir openat pidfd_open pipe2 poll read readlink \
         recvfrom rename sendto setsockopt shutdown socket statx timerfd_create unlink wait4 write writev",
        "EINVAL",
        "the arguments are constants of the program, valid on every supported kernel",
    ),
    (
        "bind chmod chown fcntl getdents64 inotify_add_watch link mkdir openat readlink rename statx unlink",
        "ENOTDIR",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "bind chmod chown link mkdir openat readlink rename statx unlink",
        "ELOOP",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "bind chmod chown getcwd inotify_add_watch link mkdir openat readlink rename statx unlink",
        "ENAMETOOLONG",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "ftruncate openat read rename unlink",
        "EISDIR",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "openat statx",
        "EOVERFLOW",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "openat",
        "ENXIO ENODEV",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "ftruncate openat write writev",
        "EFBIG",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "ftruncate openat",
        "ETXTBSY",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "link mkdir rename",
        "EMLINK",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "link rename",
        "EXDEV",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "rename",
        "ENOTEMPTY",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "fcntl openat rename unlink",
        "EBUSY",
        "it describes the file or the path, which stays as it is: no failure of one call",
    ),
    (
        "socket socketpair",
        "EPROTONOSUPPORT",
        "every supported kernel has the function for this kind of object",
    ),
    (
        "accept4 clone3 listen openat sendto socketpair writev",
        "EOPNOTSUPP",
        "every supported kernel has the function for this kind of object",
    ),
    (
        "chmod",
        "ENOTSUP",
        "every supported kernel has the function for this kind of object",
    ),
    (
        "pipe2",
        "ENOPKG",
        "every supported kernel has the function for this kind of object",
    ),
    (
        "getrandom",
        "ENOSYS",
        "every supported kernel has the function for this kind of object",
    ),
];

/// A panic of a library that only an impossible failure can cause: strace selects calls by their name, and not by the kind
/// of descriptor.
#[derive(Debug)]
pub(super) struct KnownPanic {
    /// The call that failed, as strace prints it.
    pub(super) call: &'static str,
    /// What strace prints for the descriptor of the call.
    pub(super) descriptor: &'static str,
    /// The source file of the panic: the name of the crate without its version, and the path in it.
    pub(super) file: (&'static str, &'static str),
    /// The function that panicked, as the backtrace names it.
    pub(super) function: &'static str,
}

/// The panics that do not count, if the call failed on this kind of descriptor.
pub(super) const KNOWN_PANICS: &[KnownPanic] = &[
    // A write to an eventfd fails only with EAGAIN, at a counter of 2^64 - 2 (eventfd(2)).
    KnownPanic {
        call: "write",
        descriptor: "<anon_inode:[eventfd]>",
        file: ("tokio", "src/runtime/io/driver.rs"),
        function: "tokio::runtime::io::driver::Handle::unpark",
    },
    // The pair of sockets that reports signals: both ends are in the daemon, so none is reset, and to read it the kernel
    // only copies what is queued.
    KnownPanic {
        call: "recvfrom",
        descriptor: "<UNIX-STREAM:[",
        file: ("signal-hook-tokio", "src/lib.rs"),
        function: "<signal_hook_tokio::SignalsInfo<E> as futures_core::stream::Stream>::poll_next",
    },
];
