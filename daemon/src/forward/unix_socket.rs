//! Listens at a Unix socket: made with its mode from the first moment, taken over from a dead owner, taken away at the end.
//! Nothing but a socket of our own is ever removed.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};
use tunneld_platform::fs::FileId;

use super::port_owner;
use crate::failure::{Failure, FailureKind};
use tunneld_config::model::Forwarding;

/// The longest path that fits a socket address with its NUL.
const MAX_PATH_LEN: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
const BACKLOG: i32 = 1024;
/// How often a socket looks after its file.
const PATH_CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// A listening Unix socket, removed when it is dropped.
#[derive(Debug)]
pub(super) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that we made.
    file: Option<FileId>,
}

impl UnixSocket {
    /// Listens at the path.
    pub(super) async fn bind(path: &Path, options: &Forwarding) -> Result<Self, Failure> {
        let length = path.as_os_str().as_bytes().len();
        if length > MAX_PATH_LEN {
            return Err(failure(
                path,
                &format!("the path has {length} bytes, and a Unix socket's at most {MAX_PATH_LEN}"),
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

    /// Waits until the file that we made is not there any more.
    pub(super) async fn path_lost(&self) {
        loop {
            tokio::time::sleep(PATH_CHECK_INTERVAL).await;
            if !self.is_in_place() {
                return;
            }
        }
    }

    /// Somebody may have taken it away, or put another file there.
    fn is_in_place(&self) -> bool {
        let there = fs::symlink_metadata(&self.path).ok();
        self.file.is_some() && there.map(|meta| FileId::of(&meta)) == self.file
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
    socket.set_nonblocking(true)?;
    // Linux makes the file with the socket's own mode, so nobody slips in before the chmod below; others ignore it.
    let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode as _));
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Removes a socket that stands in the way and may be removed.
async fn remove_stale(path: &Path, unlink: bool) -> Result<(), Failure> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(bind_failure(path, &error)),
    };
    if !meta.file_type().is_socket() {
        return Err(
            failure(path, "the path is taken by something that is not a socket")
                .hint("choose another path; tunneld removes sockets alone"),
        );
    }
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !ours {
        return Err(failure(
            path,
            &format!(
                "the socket there belongs to another user (uid {})",
                meta.uid()
            ),
        )
        .hint("choose another path"));
    }
    if !unlink {
        let answer = UnixStream::connect(path)
            .await
            .map_err(|error| error.kind());
        if answer.err() != Some(io::ErrorKind::ConnectionRefused) {
            let owner = port_owner::of_path(path).await;
            return Err(port_owner::in_use(|what| failure(path, what), owner));
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(bind_failure(path, &error)),
        _ => Ok(()),
    }
}

fn failure(path: &Path, what: &str) -> Failure {
    let path = tunneld_proto::text::escape_bytes(path.as_os_str().as_bytes());
    Failure::new(
        FailureKind::BindFailed,
        format!("cannot listen on {path}: {what}"),
    )
}

fn bind_failure(path: &Path, error: &io::Error) -> Failure {
    let failure = failure(path, &error.to_string());
    match error.kind() {
        io::ErrorKind::NotFound => failure.hint("make its folder, or choose another path"),
        io::ErrorKind::PermissionDenied => failure.hint("choose a folder that you may write"),
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
            permit_remote_open: vec![],
        }
    }

    #[tokio::test]
    async fn it_has_its_mode_and_goes_with_its_owner() {
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
    async fn a_dead_one_is_taken_over_a_live_one_is_not() {
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
    async fn nothing_but_a_socket_is_removed() {
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
    async fn a_file_put_in_its_place_stays() {
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
    async fn a_path_beyond_the_limit_is_told() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(MAX_PATH_LEN - 4)));
        let error = UnixSocket::bind(&path, &options(false, 0o177))
            .await
            .unwrap_err();
        assert!(error.message.contains("at most"), "{error}");
    }
}
