//! The Unix socket. The lock beside it decides who is the daemon; the socket itself is never asked.
//!
//! Binding over a live socket would displace it without a word, so the lock is taken first, and a socket
//! is unlinked only by the lock's holder.

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

/// `sun_path` holds 108 bytes on Linux and 104 elsewhere, the closing NUL included.
const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

pub(super) fn resolve(given: Option<&Path>, env: &Env) -> Result<Endpoint, PathError> {
    let mut notes = Vec::new();
    let (path, ours) = match given {
        Some(path) => (env.absolute(path)?, false),
        None => (own_dir(env, &mut notes)?.join(SOCKET), true),
    };
    let (Some(dir), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(PathError::NoFileName(path));
    };
    if path.as_os_str().as_bytes().len() > MAX_PATH {
        return Err(PathError::TooLong {
            path,
            max: MAX_PATH,
        });
    }
    Ok(Endpoint {
        state_dir: dir.to_owned(),
        path,
        ours,
        notes,
    })
}

/// The first of the places that is the user's own; never a shared one.
fn own_dir(env: &Env, notes: &mut Vec<String>) -> Result<PathBuf, PathError> {
    if let Some(dir) = env.xdg_runtime_dir.as_deref().map(Path::new) {
        match runtime_fault(dir, true) {
            None => return Ok(dir.join("tunneld")),
            Some(fault) => notes.push(format!(
                "XDG_RUNTIME_DIR={} is not used: {fault}",
                dir.display()
            )),
        }
    }
    let dir = env.run_user.join(euid().to_string());
    if runtime_fault(&dir, false).is_none() {
        return Ok(dir.join("tunneld"));
    }
    Ok(env.home()?.join(".local/state/tunneld/run"))
}

fn runtime_fault(dir: &Path, private: bool) -> Option<String> {
    if !dir.is_absolute() {
        return Some("it is not an absolute path".into());
    }
    let meta = match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => meta,
        Ok(_) => return Some("it is not a folder".into()),
        Err(err) => return Some(err.to_string()),
    };
    if meta.uid() != euid() {
        return Some(format!("it belongs to user {}", meta.uid()));
    }
    let mode = meta.mode() & 0o777;
    (private && mode & 0o077 != 0).then(|| format!("its mode is {mode:03o}, not 700"))
}

pub(super) fn prepare(endpoint: &Endpoint) -> Result<(), ListenError> {
    RuntimeDir::open(endpoint).map(drop)
}

/// One connection. Ending the writing side leaves the reading side open.
#[derive(Debug)]
pub struct Stream(UnixStream);

impl Stream {
    /// Who is at the other end.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn peer(&self) -> io::Result<Peer> {
        let creds = self.0.peer_cred()?;
        Ok(Peer {
            uid: Some(creds.uid()),
            pid: creds.pid().and_then(|pid| pid.try_into().ok()),
        })
    }

    /// An eye on the other end's close.
    ///
    /// # Errors
    /// Where no file descriptor is left.
    pub fn hangup(&self) -> io::Result<Hangup> {
        self.0.as_fd().try_clone_to_owned().map(Hangup)
    }

    fn foreign(&self) -> io::Result<Option<u32>> {
        let uid = self.0.peer_cred()?.uid();
        Ok((uid != euid() && uid != 0).then_some(uid))
    }
}

/// Sees whether the other end has closed a connection both ways, while nobody reads from it.
#[derive(Debug)]
pub struct Hangup(OwnedFd);

impl Hangup {
    /// Whether it has. The end of its requests alone is no hang-up: it may still read.
    pub fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::empty())];
        let looked = rustix::event::poll(&mut fds, Some(&Timespec::default()));
        let gone = PollFlags::HUP | PollFlags::ERR;
        looked.is_ok() && fds.iter().any(|fd| fd.revents().intersects(gone))
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

/// Connects, and makes sure that the daemon is the user's own (or root's) before a byte is sent.
///
/// # Errors
/// Where nobody listens, or somebody else does.
pub async fn connect(endpoint: &Endpoint) -> Result<Stream, ConnectError> {
    let io = |source| ConnectError::Io {
        endpoint: endpoint.to_string(),
        source,
    };
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
    match stream.foreign().map_err(io)? {
        None => Ok(stream),
        Some(uid) => Err(ConnectError::Foreign {
            endpoint: endpoint.to_string(),
            uid,
        }),
    }
}

/// Listens: makes the folder, takes the lock, clears what a dead daemon left, binds.
///
/// # Errors
/// [`ListenError::Running`] where another daemon holds the lock; else what stands in the way.
pub fn listen(endpoint: &Endpoint) -> Result<Listener, ListenError> {
    let runtime_dir = RuntimeDir::open(endpoint)?;
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

/// A daemon's listening socket; its drop unlinks it.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    inner: Inner,
    /// Device and inode of the socket that was bound.
    bound: (u64, u64),
    /// Held for the listener's life: whoever holds it is the daemon.
    lock: File,
}

impl Listener {
    /// The next client of the user's own or root's; cancel-safe.
    ///
    /// # Errors
    /// [`AcceptError::Foreign`] for anyone else's, closed unread. The listener stands in either case.
    pub async fn accept(&self) -> Result<Stream, AcceptError> {
        let (stream, _) = self.inner.inner().accept().await?;
        let stream = Stream(stream);
        match stream.foreign()? {
            None => Ok(stream),
            Some(uid) => Err(AcceptError::Foreign { uid }),
        }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether the socket that clients find is still this one.
    pub fn is_in_place(&self) -> bool {
        RuntimeDir::open_existing(&self.endpoint)
            .and_then(|runtime_dir| runtime_dir.socket_id())
            .is_ok_and(|id| id == self.bound)
    }

    /// Binds again where the socket was deleted or replaced; only what is a socket of the user's own is cleared away.
    ///
    /// # Errors
    /// As [`listen`]; the old socket keeps serving those who are connected.
    pub fn rebind(&mut self) -> Result<(), ListenError> {
        let runtime_dir = RuntimeDir::open(&self.endpoint)?;
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
        // The lock is still held here; it is let go when the file is dropped.
        if let Ok(runtime_dir) = RuntimeDir::open_existing(&self.endpoint)
            && runtime_dir.socket_id().is_ok_and(|id| id == self.bound)
        {
            let _ = rustix::fs::unlinkat(&runtime_dir.dir, &runtime_dir.name, AtFlags::empty());
        }
    }
}
