//! The control endpoint and both ends of its connections: [`Endpoint::resolve`], [`listen`], [`connect`].
//!
//! A Unix socket (mode 0600 in a private directory), on Windows a named pipe that only the user can open.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::paths::{Env, PathError};

#[cfg(unix)]
mod runtime_dir;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub use unix::{Hangup, Listener, Stream, connect, listen};
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::{Hangup, Listener, Stream, connect, listen};

/// Address of a daemon: path of a Unix socket or name of a pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    path: PathBuf,
    /// Path of the directory that cannot be used.
    state_dir: PathBuf,
    /// Whether the directory is the default one, whose mode may be corrected; another is only checked.
    is_default: bool,
    notes: Vec<String>,
}

impl Endpoint {
    /// Determines the endpoint: `explicit` (`--socket`), else `$TUNNELD_SOCKET`, else the default in a private directory of
    /// the user.
    ///
    /// # Errors
    /// If no private directory is found, or the path is too long for a socket.
    pub fn resolve(explicit: Option<&Path>, env: &Env) -> Result<Self, PathError> {
        let explicit = explicit.or(env.tunneld_socket.as_deref().map(Path::new));
        #[cfg(unix)]
        return unix::resolve(explicit, env);
        #[cfg(windows)]
        return windows::resolve(explicit, env);
    }

    /// Returns the path of the socket or the name of the pipe.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory for files that belong to this endpoint and outlive the daemon; on Unix that of the socket.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Returns the path of a file beside the socket: `control.sock` with `state.json` gives `control.sock.state.json`.
    pub fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(self.path.file_name().unwrap_or_default());
        name.push(".");
        name.push(suffix);
        self.state_dir.join(name)
    }

    /// Creates the state directory with mode 0700 if it is missing, and checks that it is private.
    ///
    /// # Errors
    /// If it belongs to another user, or others can write to it.
    pub fn prepare(&self) -> Result<(), ListenError> {
        #[cfg(unix)]
        return unix::prepare(self);
        #[cfg(windows)]
        return windows::prepare(self);
    }

    /// Returns why a preferred directory was not used, one sentence each, to be shown to the user once.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Identity of the process at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User id; `None` on Windows, where the security descriptor of the pipe excludes other users.
    pub uid: Option<u32>,
    /// Process id; `None` if the system does not report it.
    pub pid: Option<u32>,
}

/// Why a daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon holds the lock.
    #[error("tunneld is already running{} at {endpoint}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Running {
        /// Process id of the other daemon; `None` if it is unknown.
        pid: Option<u32>,
        /// Path of the socket or name of the pipe.
        endpoint: String,
    },
    /// The directory is not private.
    #[error("the directory {} of the control socket is not safe: {why}", .dir.display())]
    UnsafeFolder {
        /// Path of the directory.
        dir: PathBuf,
        /// Owner or mode that is wrong.
        why: String,
    },
    /// There is a file at the path of the socket that is not a socket of the user.
    #[error("{} cannot be replaced: it is {what}", .path.display())]
    InTheWay {
        /// Path of the file that blocks the socket.
        path: PathBuf,
        /// What it is, such as `a directory`.
        what: &'static str,
    },
    /// An operation of the operating system failed.
    #[error("{doing} {} failed", .path.display())]
    Io {
        /// The operation, such as `creating the directory`.
        doing: &'static str,
        /// File or directory of the operation.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl ListenError {
    /// Returns what the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Running { .. } => {
                "use it with tunnelctl, stop it first, or choose another socket with --socket"
                    .into()
            }
            Self::UnsafeFolder { .. } => {
                "choose a socket with --socket in a directory that only you can write to".into()
            }
            Self::InTheWay { path, .. } => format!(
                "move {} away, or choose another socket with --socket",
                path.display()
            ),
            Self::Io { .. } => "fix the cause, or choose another socket with --socket".into(),
        }
    }
}

/// Why a client was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The client belongs to another user; the connection was closed before anything was read.
    #[error("a process of user {uid} tried to connect")]
    Foreign {
        /// User id of the client.
        uid: u32,
    },
    /// accept(2) failed; the listener keeps working.
    #[error("accepting a client failed")]
    Io(#[from] io::Error),
}

/// Why no connection to a daemon was made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No process listens at the endpoint.
    #[error("no tunneld answers at {endpoint}")]
    NoDaemon {
        /// Path of the socket or name of the pipe.
        endpoint: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The listening process belongs to another user; nothing was sent.
    #[error("the process at {endpoint} belongs to user {uid}, not to you; nothing was sent to it")]
    Foreign {
        /// Path of the socket or name of the pipe.
        endpoint: String,
        /// User id of the process.
        uid: u32,
    },
    /// Connecting failed for another reason.
    #[error("connecting to {endpoint} failed")]
    Io {
        /// Path of the socket or name of the pipe.
        endpoint: String,
        /// The error of the operating system.
        source: io::Error,
    },
}
