//! The Unix socket. The lock beside it decides who is the daemon; the socket itself is never asked.
//!
//! Binding over a live socket would displace it without a word, so the lock is taken first, and a socket
//! is unlinked only by the lock's holder.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use interprocess::local_socket::ListenerOptions;
use interprocess::local_socket::prelude::*;
use interprocess::os::unix::local_socket::FilesystemUdSocket;
#[cfg(target_os = "linux")]
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use interprocess::os::unix::uds_local_socket::tokio::Listener as Inner;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use super::{AcceptError, ConnectError, Endpoint, ListenError, Peer};
use crate::place::{Env, PlaceError};

/// `sun_path` holds 108 bytes on Linux and 104 elsewhere, the closing NUL included.
const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
const SOCKET: &str = "control.sock";

fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub(super) fn resolve(given: Option<&Path>, env: &Env) -> Result<Endpoint, PlaceError> {
    let mut notes = Vec::new();
    let (path, ours) = match given {
        Some(path) => (env.absolute(path)?, false),
        None => (own_dir(env, &mut notes)?.join(SOCKET), true),
    };
    let (Some(dir), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(PlaceError::NoFileName(path));
    };
    if path.as_os_str().as_bytes().len() > MAX_PATH {
        return Err(PlaceError::TooLong {
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
fn own_dir(env: &Env, notes: &mut Vec<String>) -> Result<PathBuf, PlaceError> {
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
    Place::open(endpoint).map(drop)
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
    let place = Place::open(endpoint)?;
    let lock = place.lock()?;
    let inner = place.bind()?;
    let bound = place.socket_id()?;
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
        Place::open_existing(&self.endpoint)
            .and_then(|place| place.socket_id())
            .is_ok_and(|id| id == self.bound)
    }

    /// Binds again where the socket was deleted or replaced; only what is a socket of the user's own is cleared away.
    ///
    /// # Errors
    /// As [`listen`]; the old socket keeps serving those who are connected.
    pub fn bind_again(&mut self) -> Result<(), ListenError> {
        let place = Place::open(&self.endpoint)?;
        if !place.is_lock(&self.lock) {
            self.lock = place.lock()?;
        }
        self.inner = place.bind()?;
        self.bound = place.socket_id()?;
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The lock is still held here; it is let go when the file is dropped.
        if let Ok(place) = Place::open_existing(&self.endpoint)
            && place.socket_id().is_ok_and(|id| id == self.bound)
        {
            let _ = rustix::fs::unlinkat(&place.dir, &place.name, AtFlags::empty());
        }
    }
}

/// The socket's folder, held open so that nobody can swap it between two looks.
struct Place<'a> {
    endpoint: &'a Endpoint,
    dir: File,
    name: OsString,
}

impl<'a> Place<'a> {
    fn open(endpoint: &'a Endpoint) -> Result<Self, ListenError> {
        let path = endpoint.state_dir();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|err| failed("making the folder", path, err))?;
        let place = Self::open_existing(endpoint)?;
        place.check_dir()?;
        Ok(place)
    }

    fn open_existing(endpoint: &'a Endpoint) -> Result<Self, ListenError> {
        let path = endpoint.state_dir();
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|err| match err {
            rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => ListenError::UnsafeFolder {
                dir: path.to_owned(),
                why: "it is a symbolic link or no folder".into(),
            },
            other => failed("opening the folder", path, other.into()),
        })?;
        Ok(Self {
            endpoint,
            dir: File::from(dir),
            name: endpoint
                .path()
                .file_name()
                .unwrap_or(OsStr::new(SOCKET))
                .to_owned(),
        })
    }

    fn check_dir(&self) -> Result<(), ListenError> {
        let path = self.endpoint.state_dir();
        let meta = self
            .dir
            .metadata()
            .map_err(|err| failed("looking at the folder", path, err))?;
        let refuse = |why| ListenError::UnsafeFolder {
            dir: path.to_owned(),
            why,
        };
        if meta.uid() != euid() {
            return Err(refuse(format!("it belongs to user {}", meta.uid())));
        }
        let mode = meta.mode() & 0o777;
        if self.endpoint.ours && mode & 0o077 != 0 {
            let tight = std::fs::Permissions::from_mode(0o700);
            self.dir
                .set_permissions(tight)
                .map_err(|err| failed("making private the folder", path, err))?;
        } else if mode & 0o022 != 0 {
            return Err(refuse(format!("others may write in it (mode {mode:03o})")));
        }
        Ok(())
    }

    fn lock_name(&self) -> OsString {
        let mut name = self.name.clone();
        name.push(".lock");
        name
    }

    fn lock(&self) -> Result<File, ListenError> {
        let path = self.endpoint.beside("lock");
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.dir, self.lock_name(), flags, mode)
            .map_err(|err| failed("opening the lock", &path, err.into()))?;
        let mut file = File::from(file);
        let meta = file
            .metadata()
            .map_err(|err| failed("looking at the lock", &path, err))?;
        if !meta.is_file() || meta.uid() != euid() {
            return Err(ListenError::InTheWay {
                path,
                what: "no file of yours",
            });
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // A daemon that has just begun may not have written it yet.
                let _ = file.take(32).read_to_string(&mut text);
                return Err(ListenError::Running {
                    pid: text.trim().parse().ok(),
                    endpoint: self.endpoint.to_string(),
                });
            }
            Err(TryLockError::Error(err)) => return Err(failed("locking", &path, err)),
        }
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()))
            .map_err(|err| failed("writing the lock", &path, err))?;
        Ok(file)
    }

    fn is_lock(&self, lock: &File) -> bool {
        let (Ok(ours), Ok(there)) = (
            rustix::fs::fstat(lock),
            rustix::fs::statat(&self.dir, self.lock_name(), AtFlags::SYMLINK_NOFOLLOW),
        ) else {
            return false;
        };
        (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
    }

    fn bind(&self) -> Result<Inner, ListenError> {
        self.clear()?;
        let path = self.endpoint.path();
        let name = path
            .to_fs_name::<FilesystemUdSocket>()
            .map_err(|err| failed("naming the socket", path, err))?;
        let options = ListenerOptions::new().name(name).reclaim_name(false);
        // Set on the socket before it has a name: there is no moment at which others could connect.
        #[cfg(target_os = "linux")]
        let options = options.mode(0o600);
        let inner: Inner = options
            .create_tokio_as()
            .map_err(|err| failed("listening at", path, err))?;
        #[cfg(not(target_os = "linux"))]
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|err| failed("making private the socket", path, err))?;
        Ok(inner)
    }

    /// Unlinks the socket that a dead daemon left.
    fn clear(&self) -> Result<(), ListenError> {
        let path = self.endpoint.path();
        let stat = match rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(err) => return Err(failed("looking at", path, err.into())),
        };
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket if stat.st_uid == euid() => {
                return rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty())
                    .map_err(|err| failed("removing the dead socket", path, err.into()));
            }
            FileType::Socket => "another user's socket",
            FileType::Directory => "a folder",
            FileType::Symlink => "a symbolic link",
            FileType::RegularFile => "a file",
            _ => "no socket",
        };
        Err(ListenError::InTheWay {
            path: path.to_owned(),
            what,
        })
    }

    fn socket_id(&self) -> Result<(u64, u64), ListenError> {
        let path = self.endpoint.path();
        std::fs::symlink_metadata(path)
            .map(|meta| (meta.dev(), meta.ino()))
            .map_err(|err| failed("looking at", path, err))
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> ListenError {
    ListenError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
