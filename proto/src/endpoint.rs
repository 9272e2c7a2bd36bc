//! Where the control protocol is spoken, and both ends of it: [`Endpoint::resolve`], [`listen`], [`connect`].
//!
//! A Unix socket (mode 0600 in a folder of the user's own), on Windows a named pipe for the user alone.

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

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    path: PathBuf,
    state_dir: PathBuf,
    ours: bool,
    notes: Vec<String>,
}

impl Endpoint {
    /// The endpoint: `explicit` (`--socket`), else `$TUNNELD_SOCKET`, else the user's own place.
    ///
    /// # Errors
    /// Where no place is left, or its path is too long for a socket.
    pub fn resolve(explicit: Option<&Path>, env: &Env) -> Result<Self, PathError> {
        let given = explicit.or(env.tunneld_socket.as_deref().map(Path::new));
        #[cfg(unix)]
        return unix::resolve(given, env);
        #[cfg(windows)]
        return windows::resolve(given, env);
    }

    /// The socket's path or the pipe's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder for what belongs to this daemon and outlives it: the socket's own.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// A file beside the socket that bears its name: `control.sock` and `state.json` give `control.sock.state.json`.
    pub fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(self.path.file_name().unwrap_or_default());
        name.push(".");
        name.push(suffix);
        self.state_dir.join(name)
    }

    /// Makes the state folder where it is missing, for the user alone, and sees that it is safe.
    ///
    /// # Errors
    /// Where it belongs to somebody else, or others may write in it.
    pub fn prepare(&self) -> Result<(), ListenError> {
        #[cfg(unix)]
        return unix::prepare(self);
        #[cfg(windows)]
        return windows::prepare(self);
    }

    /// Why a better place was passed over, to be told once.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The user id; none on Windows, where the pipe's security descriptor keeps others out.
    pub uid: Option<u32>,
    /// The process id, where the system tells it.
    pub pid: Option<u32>,
}

/// Why a daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another one does.
    #[error("tunneld runs already{}, at {endpoint}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Running {
        /// Its process id, where it can be told.
        pid: Option<u32>,
        /// Where.
        endpoint: String,
    },
    /// The folder is not the user's alone.
    #[error("the control socket's folder {} is not safe: {why}", .dir.display())]
    UnsafeFolder {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something else stands in the socket's place.
    #[error("{} is in the way: it is {what}", .path.display())]
    InTheWay {
        /// The path.
        path: PathBuf,
        /// What stands there.
        what: &'static str,
    },
    /// The system refused.
    #[error("{doing} {} failed", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

impl ListenError {
    /// What to do now.
    pub fn hint(&self) -> String {
        match self {
            Self::Running { .. } => {
                "command that one with tunnelctl, stop it first, or give another place with --socket".into()
            }
            Self::UnsafeFolder { .. } => {
                "give a place in a folder of your own with --socket, one that nobody else can write in".into()
            }
            Self::InTheWay { path, .. } => format!("move {} away, or give another place with --socket", path.display()),
            Self::Io { .. } => "mend that, or give another place with --socket".into(),
        }
    }
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// It belongs to another user; it was closed unread.
    #[error("a process of user {uid} tried to connect")]
    Foreign {
        /// The user.
        uid: u32,
    },
    /// The system failed; the listener still stands.
    #[error("accepting a client failed")]
    Io(#[from] io::Error),
}

/// Why no daemon can be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens.
    #[error("no tunneld answers at {endpoint}")]
    NoDaemon {
        /// Where.
        endpoint: String,
        /// The system's word.
        source: io::Error,
    },
    /// Somebody else's process listens.
    #[error("the process at {endpoint} belongs to user {uid}, not to you: it is told nothing")]
    Foreign {
        /// Where.
        endpoint: String,
        /// Whose it is.
        uid: u32,
    },
    /// The system failed.
    #[error("connecting to {endpoint} failed")]
    Io {
        /// Where.
        endpoint: String,
        /// The system's word.
        source: io::Error,
    },
}
