//! The socket's folder: kept private, and looked at through one open handle; the lock; the bind.

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

/// The socket's name where none is given.
pub(super) const SOCKET: &str = "control.sock";

pub(super) fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The socket's folder, held open so that nobody can swap it between two looks.
pub(super) struct RuntimeDir<'a> {
    endpoint: &'a Endpoint,
    pub(super) dir: File,
    pub(super) name: OsString,
}

impl<'a> RuntimeDir<'a> {
    pub(super) fn open(endpoint: &'a Endpoint) -> Result<Self, ListenError> {
        let path = endpoint.state_dir();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|err| failed("making the folder", path, err))?;
        let runtime_dir = Self::open_existing(endpoint)?;
        runtime_dir.check_dir()?;
        Ok(runtime_dir)
    }

    pub(super) fn open_existing(endpoint: &'a Endpoint) -> Result<Self, ListenError> {
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

    pub(super) fn lock(&self) -> Result<File, ListenError> {
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

    pub(super) fn is_lock(&self, lock: &File) -> bool {
        let (Ok(ours), Ok(there)) = (
            rustix::fs::fstat(lock),
            rustix::fs::statat(&self.dir, self.lock_name(), AtFlags::SYMLINK_NOFOLLOW),
        ) else {
            return false;
        };
        (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
    }

    pub(super) fn bind(&self) -> Result<Inner, ListenError> {
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

    pub(super) fn socket_id(&self) -> Result<(u64, u64), ListenError> {
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
