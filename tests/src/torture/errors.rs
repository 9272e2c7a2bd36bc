//! The system calls that the daemon makes, and the errors that each can return: section ERRORS of its man page, and what
//! file systems and protocols add (tcp(7), nfs(5), netdevice(7)). The torture run plays each pair, but for those in
//! `excluded`. The other name of EAGAIN, EWOULDBLOCK, is left out.

/// A family of calls with the same errors: their names, the usual one first, and the errors. Both are lists of words.
pub(super) const ERRORS: &[(&str, &str)] = &[
    (
        "accept4 accept",
        "EAGAIN EBADF ECONNABORTED EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM ENOTSOCK EOPNOTSUPP EPERM \
         EPROTO",
    ),
    (
        "access faccessat faccessat2",
        "EACCES EBADF EFAULT EINVAL EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EPERM EROFS ETXTBSY",
    ),
    ("arch_prctl", "EFAULT EINVAL ENODEV EPERM"),
    (
        "bind",
        "EACCES EADDRINUSE EADDRNOTAVAIL EBADF EFAULT EINVAL ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR \
         ENOTSOCK EROFS",
    ),
    ("brk", "ENOMEM"),
    (
        "chmod fchmod fchmodat",
        "EACCES EBADF EFAULT EINVAL EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR ENOTSUP EPERM EROFS",
    ),
    (
        "chown fchown fchownat lchown",
        "EACCES EBADF EFAULT EINVAL EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EPERM EROFS",
    ),
    (
        "clone3 clone fork vfork",
        "EACCES EAGAIN EBUSY EEXIST EINVAL ENOMEM ENOSPC EOPNOTSUPP EPERM EUSERS",
    ),
    ("close", "EBADF EDQUOT EINTR EIO ENOSPC"),
    ("close_range", "EINVAL EMFILE ENOMEM"),
    (
        "connect",
        "EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF ECONNREFUSED EFAULT EHOSTUNREACH \
         EINPROGRESS EINTR EISCONN ENETUNREACH ENOTSOCK EPERM EPROTOTYPE ETIMEDOUT",
    ),
    ("dup2 dup3", "EBADF EBUSY EINTR EINVAL EMFILE"),
    ("dup", "EBADF EMFILE"),
    ("epoll_create1 epoll_create", "EINVAL EMFILE ENFILE ENOMEM"),
    (
        "epoll_ctl",
        "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM",
    ),
    (
        "epoll_wait epoll_pwait epoll_pwait2",
        "EBADF EFAULT EINTR EINVAL",
    ),
    ("eventfd2 eventfd", "EINVAL EMFILE ENFILE ENODEV ENOMEM"),
    (
        "execve execveat",
        "E2BIG EACCES EAGAIN EFAULT EINVAL EIO EISDIR ELIBBAD ELOOP EMFILE ENAMETOOLONG ENFILE ENOENT ENOEXEC \
         ENOMEM ENOTDIR EPERM ETXTBSY",
    ),
    (
        "fcntl",
        "EACCES EAGAIN EBADF EBUSY EDEADLK EFAULT EINTR EINVAL EMFILE ENOLCK ENOTDIR EPERM",
    ),
    ("flock", "EAGAIN EBADF EINTR EINVAL ENOLCK"),
    (
        "fsync fdatasync",
        "EBADF EDQUOT EINTR EINVAL EIO ENOSPC EROFS",
    ),
    (
        "ftruncate",
        "EACCES EBADF EFBIG EINTR EINVAL EIO EISDIR EPERM EROFS ETXTBSY",
    ),
    (
        "futex",
        "EACCES EAGAIN EDEADLK EFAULT EINTR EINVAL ENFILE ENOMEM ENOSYS EPERM ESRCH ETIMEDOUT",
    ),
    (
        "getcwd",
        "EACCES EFAULT EINVAL ENAMETOOLONG ENOENT ENOMEM ERANGE",
    ),
    (
        "getdents64 getdents",
        "EBADF EFAULT EINVAL EIO ENOENT ENOTDIR",
    ),
    (
        "getpeername",
        "EBADF EFAULT EINVAL ENOBUFS ENOTCONN ENOTSOCK",
    ),
    ("getrandom", "EAGAIN EFAULT EINTR EINVAL ENOSYS"),
    ("getsockname", "EBADF EFAULT EINVAL ENOBUFS ENOTSOCK"),
    (
        "getsockopt",
        "EBADF EFAULT EINVAL ENOBUFS ENOPROTOOPT ENOTSOCK",
    ),
    (
        "inotify_add_watch",
        "EACCES EBADF EEXIST EFAULT EINVAL ENAMETOOLONG ENOENT ENOMEM ENOSPC ENOTDIR",
    ),
    ("inotify_init1 inotify_init", "EINVAL EMFILE ENFILE ENOMEM"),
    ("inotify_rm_watch", "EBADF EINVAL"),
    ("ioctl", "EBADF EFAULT EINVAL ENODEV ENOTTY"),
    ("kill", "EINVAL EPERM ESRCH"),
    (
        "link linkat",
        "EACCES EBADF EDQUOT EEXIST EFAULT EINVAL EIO ELOOP EMLINK ENAMETOOLONG ENOENT ENOMEM ENOSPC ENOTDIR \
         EPERM EROFS EXDEV",
    ),
    ("listen", "EADDRINUSE EBADF ENOTSOCK EOPNOTSUPP"),
    ("lseek", "EBADF EINVAL ENXIO EOVERFLOW ESPIPE"),
    (
        "madvise",
        "EACCES EAGAIN EBADF EBUSY EFAULT EHWPOISON EINVAL EIO ENOMEM EPERM",
    ),
    (
        "mkdir mkdirat",
        "EACCES EBADF EDQUOT EEXIST EFAULT EINVAL ELOOP EMLINK ENAMETOOLONG ENOENT ENOMEM ENOSPC ENOTDIR \
         EPERM EROFS",
    ),
    (
        "mmap munmap mprotect mremap",
        "EACCES EAGAIN EBADF EEXIST EINVAL ENFILE ENODEV ENOMEM EOVERFLOW EPERM ETXTBSY",
    ),
    (
        "openat open openat2",
        "EACCES EAGAIN EBADF EBUSY EDQUOT EEXIST EFAULT EFBIG EINTR EINVAL EIO EISDIR ELOOP EMFILE \
         ENAMETOOLONG ENFILE ENODEV ENOENT ENOMEM ENOSPC ENOTDIR ENXIO EOPNOTSUPP EOVERFLOW EPERM EROFS \
         ESTALE ETXTBSY",
    ),
    ("pidfd_open", "EINVAL EMFILE ENFILE ENODEV ENOMEM ESRCH"),
    ("pipe2 pipe", "EFAULT EINVAL EMFILE ENFILE ENOPKG"),
    ("poll ppoll", "EFAULT EINTR EINVAL ENOMEM"),
    (
        "prctl",
        "EACCES EBADF EBUSY EFAULT EINVAL ENODEV ENXIO EOPNOTSUPP EPERM ERANGE",
    ),
    (
        "pread64",
        "EAGAIN EBADF EFAULT EINTR EINVAL EIO EISDIR ENXIO EOVERFLOW ESPIPE",
    ),
    ("prlimit64", "EFAULT EINVAL EPERM ESRCH"),
    ("read readv", "EAGAIN EBADF EFAULT EINTR EINVAL EIO EISDIR"),
    (
        "readlink readlinkat",
        "EACCES EBADF EFAULT EINVAL EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR",
    ),
    (
        "recvfrom recvmsg",
        "EAGAIN EBADF ECONNREFUSED ECONNRESET EFAULT EHOSTUNREACH EINTR EINVAL ENOMEM ENOTCONN ENOTSOCK \
         ETIMEDOUT",
    ),
    (
        "rename renameat renameat2",
        "EACCES EBADF EBUSY EDQUOT EEXIST EFAULT EINVAL EIO EISDIR ELOOP EMLINK ENAMETOOLONG ENOENT ENOMEM \
         ENOSPC ENOTDIR ENOTEMPTY EPERM EROFS EXDEV",
    ),
    ("rt_sigaction", "EFAULT EINVAL"),
    ("rt_sigprocmask", "EFAULT EINVAL"),
    ("sched_getaffinity", "EFAULT EINVAL EPERM ESRCH"),
    (
        "sendto sendmsg",
        "EACCES EAGAIN EALREADY EBADF ECONNRESET EDESTADDRREQ EFAULT EINTR EINVAL EISCONN EMSGSIZE ENOBUFS \
         ENOMEM ENOTCONN ENOTSOCK EOPNOTSUPP EPERM EPIPE",
    ),
    ("set_robust_list", "EFAULT EINVAL EPERM ESRCH"),
    ("setpgid", "EACCES EINVAL EPERM ESRCH"),
    (
        "setsockopt",
        "EBADF EFAULT EINVAL ENOBUFS ENOPROTOOPT ENOTSOCK",
    ),
    ("shutdown", "EBADF EINVAL ENOTCONN ENOTSOCK"),
    ("sigaltstack", "EFAULT EINVAL ENOMEM EPERM"),
    (
        "socket",
        "EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTONOSUPPORT",
    ),
    (
        "socketpair",
        "EAFNOSUPPORT EFAULT EMFILE ENFILE EOPNOTSUPP EPROTONOSUPPORT",
    ),
    (
        "statx stat fstat lstat newfstatat",
        "EACCES EBADF EFAULT EINVAL EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EOVERFLOW",
    ),
    ("sysinfo", "EFAULT"),
    ("timerfd_create", "EINVAL EMFILE ENFILE ENODEV ENOMEM EPERM"),
    ("timerfd_settime", "EBADF ECANCELED EFAULT EINVAL"),
    ("uname", "EFAULT"),
    (
        "unlink unlinkat",
        "EACCES EBADF EBUSY EFAULT EINVAL EIO EISDIR ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EPERM EROFS",
    ),
    ("wait4", "ECHILD EINTR EINVAL"),
    (
        "write",
        "EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE",
    ),
    (
        "writev",
        "EAGAIN EBADF ECONNRESET EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOBUFS ENOMEM ENOSPC \
         EOPNOTSUPP EPERM EPIPE",
    ),
];

/// Calls whose man page has no error, or that do not return.
pub(super) const CALLS_WITHOUT_ERRORS: &str = "exit exit_group getegid geteuid getgid getpid getppid gettid getuid restart_syscall rseq \
 rt_sigreturn sched_yield set_tid_address umask";
