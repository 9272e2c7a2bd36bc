//! The directory of the socket: kept private, accessed through one open handle; the lock file; binding the socket.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use interprocess::local_socket::ListenerOptions;
use interprocess::local_socket::prelude::*;
use interprocess::os::unix::local_socket::FilesystemUdSocket;
#[cfg(target_os = "linux")]
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use interprocess::os::unix::uds_local_socket::tokio::Listener as Inner;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{Endpoint, ListenError};

/// Default name of the socket.
pub(super) const SOCKET: &str = "control.sock";

pub(super) fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The directory of the socket, held open so that it cannot be replaced between two checks.
pub(super) struct RuntimeDir<'a> {
    endpoint: &'a Endpoint,
    pub(super) dir: File,
    pub(super) name: OsString,
}

impl<'a> RuntimeDir<'a> {
    pub(super) fn open(endpoint: &'a Endpoint) -> Result<Self, ListenError> {
        let path = endpoint.state_dir();
        let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
        match created {
            Ok(()) => {}
            // Something is there that could not be examined or is not a directory: opening it says which.
            Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(failed("creating the directory", path, err)),
        }
        let runtime_dir = Self::open_existing(endpoint)?;
        runtime_dir.check_dir()?;
        Ok(runtime_dir)
    }

    pub(super) fn open_existing(endpoint: &'a Endpoint) -> Result<Self, ListenError> {
        let path = endpoint.state_dir();
        // NOFOLLOW: a symbolic link would let its owner move the socket elsewhere.
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|err| match err {
            rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => ListenError::UnsafeFolder {
                dir: path.to_owned(),
                why: "it is a symbolic link or not a directory".into(),
            },
            other => failed("opening the directory", path, other.into()),
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
            .map_err(|err| failed("checking the directory", path, err))?;
        let refuse = |why| ListenError::UnsafeFolder {
            dir: path.to_owned(),
            why,
        };
        if meta.uid() != euid() {
            return Err(refuse(format!("it belongs to user {}", meta.uid())));
        }
        let mode = meta.mode() & 0o777;
        // The default directory is ours to correct. One that the user named may be shared for reading on purpose.
        if self.endpoint.is_default && mode & 0o077 != 0 {
            let private = std::fs::Permissions::from_mode(0o700);
            self.dir
                .set_permissions(private)
                .map_err(|err| failed("setting the mode of the directory", path, err))?;
        } else if mode & 0o022 != 0 {
            return Err(refuse(format!("others can write to it (mode {mode:03o})")));
        }
        Ok(())
    }

    fn lock_name(&self) -> OsString {
        let mut name = self.name.clone();
        // A separate file: the socket itself cannot be locked before it exists.
        name.push(".lock");
        name
    }

    pub(super) fn lock(&self) -> Result<File, ListenError> {
        let path = self.endpoint.beside("lock");
        let flags =
            // NONBLOCK: a FIFO or a device in its place must not make the daemon wait.
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.dir, self.lock_name(), flags, mode)
            .map_err(|err| failed("opening the lock file", &path, err.into()))?;
        let mut file = File::from(file);
        let meta = file
            .metadata()
            .map_err(|err| failed("checking the lock file", &path, err))?;
        if !meta.is_file() || meta.uid() != euid() {
            return Err(ListenError::InTheWay {
                path,
                what: "not a regular file of yours",
            });
        }
        // The kernel releases it when the process ends, so that a killed daemon leaves nothing to clean up.
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The file is empty if the other daemon has only just taken the lock.
                let _ = file.take(32).read_to_string(&mut text);
                return Err(ListenError::Running {
                    pid: text.trim().parse().ok(),
                    endpoint: self.endpoint.to_string(),
                });
            }
            Err(TryLockError::Error(err)) => return Err(failed("locking", &path, err)),
        }
        // Only after the lock is held: another daemon's process id must stay readable.
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()))
            .map_err(|err| failed("writing the lock file", &path, err))?;
        Ok(file)
    }

    /// Returns whether the lock file on disk is still the one that is held: after a `rm -r` of the directory another daemon
    /// could lock a new file.
    pub(super) fn is_lock(&self, lock: &File) -> bool {
        let (Ok(held), Ok(on_disk)) = (
            rustix::fs::fstat(lock),
            rustix::fs::statat(&self.dir, self.lock_name(), AtFlags::SYMLINK_NOFOLLOW),
        ) else {
            return false;
        };
        (held.st_dev, held.st_ino) == (on_disk.st_dev, on_disk.st_ino)
    }

    pub(super) fn bind(&self) -> Result<Inner, ListenError> {
        self.remove_stale_socket()?;
        let path = self.endpoint.path();
        let name = path
            .to_fs_name::<FilesystemUdSocket>()
            .map_err(|err| failed("naming the socket", path, err))?;
        // Not removed by the library: on drop it would unlink the path even if another daemon's socket is there.
        let options = ListenerOptions::new().name(name).reclaim_name(false);
        // The mode is set before the socket has a name, so others cannot connect at any moment. Elsewhere the private
        // directory protects the socket until its mode is set.
        #[cfg(target_os = "linux")]
        let options = options.mode(0o600);
        let inner: Inner = options
            .create_tokio_as()
            .map_err(|err| failed("listening at", path, err))?;
        #[cfg(not(target_os = "linux"))]
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|err| failed("setting the mode of the socket", path, err))?;
        Ok(inner)
    }

    /// Removes the socket that a dead daemon left behind. Only the holder of the lock may call this.
    fn remove_stale_socket(&self) -> Result<(), ListenError> {
        let path = self.endpoint.path();
        let stat = match rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(err) => return Err(failed("checking", path, err.into())),
        };
        let what = match FileType::from_raw_mode(stat.st_mode) {
            // The lock is held, so that the daemon which made it is gone.
            FileType::Socket if stat.st_uid == euid() => {
                return rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty())
                    .map_err(|err| failed("removing the old socket", path, err.into()));
            }
            FileType::Socket => "another user's socket",
            FileType::Directory => "a directory",
            FileType::Symlink => "a symbolic link",
            FileType::RegularFile => "a file",
            _ => "not a socket",
        };
        Err(ListenError::InTheWay {
            path: path.to_owned(),
            what,
        })
    }

    /// Returns device and inode of the socket on disk.
    pub(super) fn socket_id(&self) -> Result<(u64, u64), ListenError> {
        let path = self.endpoint.path();
        std::fs::symlink_metadata(path)
            .map(|meta| (meta.dev(), meta.ino()))
            .map_err(|err| failed("checking", path, err))
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> ListenError {
    ListenError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
