//! Listens on a Unix socket. The file has its mode from the moment it exists, a file left by a dead process is replaced,
//! and the file is removed when the listener is dropped. Only sockets are ever removed, and only those of this user.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};
use tunneld_platform::fd_reserve::{self, FdUse};
use tunneld_platform::fs::FileId;

use super::local_socket::LISTEN_BACKLOG;
use super::port_owner;
use crate::failure::{Failure, FailureKind};
use tunneld_config::model::Forwarding;

/// The longest path in bytes that fits `sockaddr_un` with its NUL.
const MAX_PATH_LEN: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// How often the listener checks that its file still exists.
const PATH_CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// A listening Unix socket. Its file is removed on drop.
#[derive(Debug)]
pub(super) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The identity of the file that `bind` created; `None` if it was removed at once. The file is compared before it is
    /// removed, because another process may have put its own in the same place.
    file: Option<FileId>,
}

impl UnixSocket {
    /// Binds the path, replacing a socket that no process listens on; with `unlink_socket` any socket of this user.
    ///
    /// # Errors
    /// `BindFailed`, with the program that has the path where that is known.
    pub(super) async fn bind(path: &Path, options: &Forwarding) -> Result<Self, Failure> {
        let length = path.as_os_str().as_bytes().len();
        if length > MAX_PATH_LEN {
            return Err(failure(
                path,
                &format!("the path has {length} bytes; a Unix socket path may have at most {MAX_PATH_LEN}"),
            )
            .hint("choose a shorter path"));
        }
        remove_stale(path, options.unlink_socket).await?;
        let mode = 0o777 & !options.socket_mask;
        let listener = listen(path, mode).map_err(|error| bind_failure(path, &error))?;
        let file = fs::symlink_metadata(path)
            .ok()
            .map(|meta| FileId::of(&meta));
        Ok(Self {
            listener,
            path: path.to_owned(),
            file,
        })
    }

    /// Waits until the file that `bind` created was removed or replaced. Checks every
    /// [`PATH_CHECK_INTERVAL`].
    pub(super) async fn path_lost(&self) {
        loop {
            tokio::time::sleep(PATH_CHECK_INTERVAL).await;
            if !self.is_in_place() {
                return;
            }
        }
    }

    fn is_in_place(&self) -> bool {
        let found = fs::symlink_metadata(&self.path).ok();
        self.file.is_some() && found.map(|meta| FileId::of(&meta)) == self.file
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.listener.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before the file exists: nothing has to be removed if it is refused.
    fd_reserve::check(&socket, FdUse::Listener)?;
    socket.set_nonblocking(true)?;
    // On Linux `bind` creates the file with the socket's own mode, so no other user can connect before the chmod below.
    // Other systems ignore this call and need the chmod.
    let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode as _));
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(LISTEN_BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Removes a socket at `path` that no process listens on, or any socket of this user with `unlink`. Everything else at
/// the path is an error.
async fn remove_stale(path: &Path, unlink: bool) -> Result<(), Failure> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(bind_failure(path, &error)),
    };
    if !meta.file_type().is_socket() {
        return Err(failure(path, "the path exists and is not a socket")
            .hint("choose another path; tunneld removes only sockets"));
    }
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !ours {
        return Err(failure(
            path,
            &format!("the socket belongs to another user (uid {})", meta.uid()),
        )
        .hint("choose another path"));
    }
    if !unlink {
        // A refused connection is the only proof that no process listens; any other result may be a live listener.
        let connected = UnixStream::connect(path)
            .await
            .map_err(|error| error.kind());
        if connected.err() != Some(io::ErrorKind::ConnectionRefused) {
            let owner = port_owner::of_path(path).await;
            return Err(port_owner::in_use(|reason| failure(path, reason), owner));
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(bind_failure(path, &error)),
        _ => Ok(()),
    }
}

fn failure(path: &Path, reason: &str) -> Failure {
    let path = tunneld_proto::text::escape_bytes(path.as_os_str().as_bytes());
    Failure::new(
        FailureKind::BindFailed,
        format!("cannot listen on {path}: {reason}"),
    )
}

fn bind_failure(path: &Path, error: &io::Error) -> Failure {
    let failure = failure(path, &error.to_string());
    match error.kind() {
        io::ErrorKind::NotFound => failure.hint("create its folder, or choose another path"),
        io::ErrorKind::PermissionDenied => failure.hint("choose a folder that you may write to"),
        _ if fd_reserve::is_exhausted(error) => failure.hint(fd_reserve::REMEDY),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;

    use super::*;

    fn options(unlink_socket: bool, socket_mask: u32) -> Forwarding {
        Forwarding {
            exit_on_failure: false,
            unlink_socket,
            socket_mask,
            max_connections: tunneld_config::model::DEFAULT_MAX_CONNECTIONS,
            permit_remote_open: vec![],
            proxy_login: None,
        }
    }

    #[tokio::test]
    async fn the_file_has_its_mode_and_is_removed_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for (mask, mode) in [(0o177, 0o600), (0o117, 0o660), (0o111, 0o666)] {
            let socket = UnixSocket::bind(&path, &options(false, mask))
                .await
                .unwrap();
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                mode
            );
            drop(socket);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_only_with_unlink() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file");
        drop(
            UnixSocket::bind(&path, &options(false, 0o177))
                .await
                .unwrap(),
        );

        let live = StdListener::bind(&path).unwrap();
        let error = UnixSocket::bind(&path, &options(false, 0o177))
            .await
            .unwrap_err();
        assert_eq!(error.kind, FailureKind::BindFailed);
        assert!(error.message.contains("in use"), "{error}");
        drop(
            UnixSocket::bind(&path, &options(true, 0o177))
                .await
                .unwrap(),
        );
        drop(live);
    }

    #[tokio::test]
    async fn only_sockets_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "mine").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
        for path in [&file, &link, &dir.path().to_path_buf()] {
            let error = UnixSocket::bind(path, &options(true, 0o177))
                .await
                .unwrap_err();
            assert!(error.message.contains("not a socket"), "{error}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        assert!(link.is_symlink());
    }

    #[tokio::test]
    async fn a_file_that_replaced_the_socket_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = UnixSocket::bind(&path, &options(false, 0o177))
            .await
            .unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "other").unwrap();
        drop(socket);
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_an_error() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(MAX_PATH_LEN - 4)));
        let error = UnixSocket::bind(&path, &options(false, 0o177))
            .await
            .unwrap_err();
        assert!(error.message.contains("at most"), "{error}");
    }
}
