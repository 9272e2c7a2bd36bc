//! The Unix socket. A lock file beside it decides which process is the daemon.
//!
//! Binding needs the old socket to be removed, which would cut off a running daemon without an error. So the lock is taken
//! first, and only its holder removes a socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use interprocess::os::unix::uds_local_socket::tokio::Listener as Inner;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::AtFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use super::runtime_dir::{RuntimeDir, SOCKET, euid};
use super::{AcceptError, ConnectError, Endpoint, ListenError, Peer};
use crate::paths::{Env, PathError};

/// Longest path in bytes: `sun_path` has 108 bytes on Linux and 104 elsewhere, including the final NUL.
const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

pub(super) fn resolve(explicit: Option<&Path>, env: &Env) -> Result<Endpoint, PathError> {
    let mut notes = Vec::new();
    let (path, is_default) = match explicit {
        Some(path) => (env.absolute(path)?, false),
        None => (default_dir(env, &mut notes)?.join(SOCKET), true),
    };
    let (Some(dir), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(PathError::NoFileName(path));
    };
    // Checked here, because `bind` and `connect` would fail with a text that does not name the limit.
    if path.as_os_str().as_bytes().len() > MAX_PATH {
        return Err(PathError::TooLong {
            path,
            max: MAX_PATH,
        });
    }
    Ok(Endpoint {
        state_dir: dir.to_owned(),
        path,
        is_default,
        notes,
    })
}

/// Returns the first directory that belongs to the user alone; never a shared one such as `/tmp`.
fn default_dir(env: &Env, notes: &mut Vec<String>) -> Result<PathBuf, PathError> {
    if let Some(dir) = env.xdg_runtime_dir.as_deref().map(Path::new) {
        // A note and not an error: the variable may be left over from before su or sudo.
        match check_runtime_dir(dir, true)? {
            None => return Ok(dir.join("tunneld")),
            Some(reason) => notes.push(format!(
                "XDG_RUNTIME_DIR={} is not used: {reason}",
                dir.display()
            )),
        }
    }
    let dir = env.run_user.join(euid().to_string());
    // Programs without a login session, such as those of cron, have no XDG_RUNTIME_DIR, but must find the same socket.
    if check_runtime_dir(&dir, false)?.is_none() {
        return Ok(dir.join("tunneld"));
    }
    Ok(env.home()?.join(".local/state/tunneld/run"))
}

/// Returns why `dir` cannot be used as runtime directory; `None` if it can. `private` demands mode 0700.
///
/// # Errors
/// The system cannot say now. Another directory would be a guess: the daemon and its clients would look in different ones.
fn check_runtime_dir(dir: &Path, private: bool) -> Result<Option<String>, PathError> {
    if !dir.is_absolute() {
        return Ok(Some("it is not an absolute path".into()));
    }
    let meta = match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => meta,
        Ok(_) => return Ok(Some("it is not a directory".into())),
        Err(err)
            if matches!(
                err.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Some(err.to_string()));
        }
        Err(err) => {
            return Err(PathError::Unreadable {
                path: dir.to_owned(),
                why: err.to_string(),
            });
        }
    };
    // The owner of the directory can replace the socket in it.
    if meta.uid() != euid() {
        return Ok(Some(format!("it belongs to user {}", meta.uid())));
    }
    let mode = meta.mode() & 0o777;
    let is_open = private && mode & 0o077 != 0;
    Ok(is_open.then(|| format!("its mode is {mode:03o}, not 700")))
}

pub(super) fn prepare(endpoint: &Endpoint) -> Result<(), ListenError> {
    RuntimeDir::open(endpoint).map(drop)
}

/// One connection. A shutdown of the writing side leaves the reading side open.
#[derive(Debug)]
pub struct Stream(UnixStream);

impl Stream {
    /// Returns the credentials of the peer.
    ///
    /// # Errors
    /// If the system does not report them.
    pub fn peer(&self) -> io::Result<Peer> {
        let creds = self.0.peer_cred()?;
        Ok(Peer {
            uid: Some(creds.uid()),
            pid: creds.pid().and_then(|pid| pid.try_into().ok()),
        })
    }

    /// Returns a handle that detects the close of the peer.
    ///
    /// # Errors
    /// If no file descriptor is left.
    pub fn hangup(&self) -> io::Result<Hangup> {
        self.0.as_fd().try_clone_to_owned().map(Hangup)
    }

    /// Returns the user id of the peer if it is neither this user nor root.
    fn foreign_uid(&self) -> io::Result<Option<u32>> {
        let uid = self.0.peer_cred()?.uid();
        // Root may connect, and may run the daemon: it can do so in any case.
        Ok((uid != euid() && uid != 0).then_some(uid))
    }
}

/// Detects that the peer has closed a connection in both directions, without reading from it.
#[derive(Debug)]
pub struct Hangup(OwnedFd);

impl Hangup {
    /// Returns whether the peer has closed both directions. A half-close does not count: the peer may still read.
    pub fn is_hung_up(&self) -> bool {
        // No events are asked for: hang-up and error are always reported, and unread bytes do not matter.
        let mut fds = [PollFd::new(&self.0, PollFlags::empty())];
        let polled = rustix::event::poll(&mut fds, Some(&Timespec::default()));
        let closed = PollFlags::HUP | PollFlags::ERR;
        polled.is_ok() && fds.iter().any(|fd| fd.revents().intersects(closed))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Connects, and checks before the first byte is sent that the daemon belongs to this user or root.
///
/// # Errors
/// If no process listens, or it belongs to another user.
pub async fn connect(endpoint: &Endpoint) -> Result<Stream, ConnectError> {
    let io = |source| ConnectError::Io {
        endpoint: endpoint.to_string(),
        source,
    };
    // The owner of the path proves nothing, because another user may have bound it: the peer's credentials decide.
    let stream = match UnixStream::connect(endpoint.path()).await {
        Ok(stream) => Stream(stream),
        Err(source)
            if matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(ConnectError::NoDaemon {
                endpoint: endpoint.to_string(),
                source,
            });
        }
        Err(err) => return Err(io(err)),
    };
    match stream.foreign_uid().map_err(io)? {
        None => Ok(stream),
        Some(uid) => Err(ConnectError::Foreign {
            endpoint: endpoint.to_string(),
            uid,
        }),
    }
}

/// Listens: creates the directory, takes the lock, removes the socket of a dead daemon, binds.
///
/// # Errors
/// [`ListenError::Running`] if another daemon holds the lock; else what failed.
pub fn listen(endpoint: &Endpoint) -> Result<Listener, ListenError> {
    let runtime_dir = RuntimeDir::open(endpoint)?;
    // Before the socket is touched: only the holder of the lock may remove one.
    let lock = runtime_dir.lock()?;
    let inner = runtime_dir.bind()?;
    let bound = runtime_dir.socket_id()?;
    Ok(Listener {
        endpoint: endpoint.clone(),
        inner,
        bound,
        lock,
    })
}

/// Listening socket of a daemon; removes the socket file when dropped.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    inner: Inner,
    /// Device and inode of the socket that was bound.
    bound: (u64, u64),
    /// Held as long as the listener exists: the process that holds it is the daemon.
    lock: File,
}

impl Listener {
    /// Accepts the next client of this user or root.
    ///
    /// # Errors
    /// [`AcceptError::Foreign`] for a client of another user, which is closed unread. The listener keeps working after any
    /// error.
    ///
    /// # Cancel safety
    /// Cancel-safe: no client is lost.
    pub async fn accept(&self) -> Result<Stream, AcceptError> {
        let (stream, _) = self.inner.inner().accept().await?;
        let stream = Stream(stream);
        match stream.foreign_uid()? {
            None => Ok(stream),
            Some(uid) => Err(AcceptError::Foreign { uid }),
        }
    }

    /// Returns the endpoint of the listener.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns whether the socket file that clients find is still the one of this listener.
    pub fn is_in_place(&self) -> bool {
        RuntimeDir::open_existing(&self.endpoint)
            .and_then(|runtime_dir| runtime_dir.socket_id())
            // Compared by device and inode: the path may belong to another daemon's socket by now.
            .is_ok_and(|id| id == self.bound)
    }

    /// Binds again after the socket file was deleted or replaced. Another file at the path is removed only if it is a socket
    /// of this user.
    ///
    /// # Errors
    /// As [`listen`]. Existing connections are not affected.
    pub fn rebind(&mut self) -> Result<(), ListenError> {
        let runtime_dir = RuntimeDir::open(&self.endpoint)?;
        // The directory was deleted and made again: the lock that is held protects a file that no other daemon sees.
        if !runtime_dir.is_lock(&self.lock) {
            self.lock = runtime_dir.lock()?;
        }
        self.inner = runtime_dir.bind()?;
        self.bound = runtime_dir.socket_id()?;
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Fields are dropped after this, so the lock is still held here.
        if let Ok(runtime_dir) = RuntimeDir::open_existing(&self.endpoint)
            && runtime_dir.socket_id().is_ok_and(|id| id == self.bound)
        {
            let _ = rustix::fs::unlinkat(&runtime_dir.dir, &runtime_dir.name, AtFlags::empty());
        }
    }
}
