//! The named pipe. Its name contains the SID of the user; its security descriptor admits only the user and the system.
//!
//! A lock file decides which process is the daemon, as on Unix. The first instance of the pipe is created with
//! FILE_FLAG_FIRST_PIPE_INSTANCE, so that a pipe of this name that another user created is an error instead of a trap.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll};

use interprocess::local_socket::ListenerOptions;
use interprocess::local_socket::prelude::*;
use interprocess::local_socket::tokio as local;
use interprocess::local_socket::traits::tokio::{Listener as _, Stream as _};
use interprocess::os::windows::local_socket::{ListenerOptionsExt as _, NamedPipe};
use interprocess::os::windows::security_descriptor::SecurityDescriptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{AcceptError, ConnectError, Endpoint, ListenError, Peer};
use crate::paths::{Env, PathError};

const PIPES: &str = r"\\.\pipe\";
/// SDDL, protected: full access for the owner and the system, none for others.
const OWNER_AND_SYSTEM: &str = "D:P(A;;GA;;;OW)(A;;GA;;;SY)";
const ERROR_ACCESS_DENIED: i32 = 5;
const ERROR_PIPE_BUSY: i32 = 231;

pub(super) fn resolve(explicit: Option<&Path>, env: &Env) -> Result<Endpoint, PathError> {
    let path = match explicit {
        Some(path) if path.as_os_str().to_string_lossy().starts_with(PIPES) => path.to_owned(),
        // Any other path means a pipe with its last part as the name: the endpoint is always a pipe.
        Some(path) => match path.file_name() {
            Some(name) => PathBuf::from(PIPES).join(name),
            None => return Err(PathError::NoFileName(path.to_owned())),
        },
        None => PathBuf::from(format!("{PIPES}tunneld-{}", sid()?)),
    };
    let local = env
        .local_appdata
        .as_ref()
        .ok_or(PathError::NoVariable("LOCALAPPDATA"))?;
    Ok(Endpoint {
        path,
        state_dir: Path::new(local).join("tunneld"),
        is_default: explicit.is_none(),
        notes: Vec::new(),
    })
}

/// Returns the SID of the user, from the `whoami` program of Windows.
fn sid() -> Result<String, PathError> {
    let root = std::env::var_os("SystemRoot").ok_or(PathError::NoVariable("SystemRoot"))?;
    let program = Path::new(&root).join("System32").join("whoami.exe");
    let output = Command::new(program)
        .args(["/user", "/fo", "csv", "/nh"])
        .output()
        .map_err(|err| PathError::NoSid(format!("running whoami failed: {err}")))?;
    sid_in(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| PathError::NoSid("whoami /user printed none".into()))
}

/// Finds the SID in the output of whoami: the last field of `"HOST\user","S-1-5-21-…"`.
fn sid_in(csv: &str) -> Option<String> {
    csv.split(|c: char| c == ',' || c == '"' || c.is_whitespace())
        .find(|field| {
            field.starts_with("S-1-")
                && field
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
        .map(str::to_owned)
}

/// One connection. A named pipe has no half-close: a shutdown of the writing side closes both.
#[derive(Debug)]
pub struct Stream(local::Stream);

impl Stream {
    /// Returns the process id of the peer.
    ///
    /// # Errors
    /// If the system does not report it.
    pub fn peer(&self) -> io::Result<Peer> {
        Ok(Peer {
            uid: None,
            pid: self.0.peer_creds()?.pid(),
        })
    }

    /// Returns a handle that detects the close of the peer.
    ///
    /// # Errors
    /// Never on Windows.
    pub fn hangup(&self) -> io::Result<Hangup> {
        Ok(Hangup(()))
    }
}

/// Detects that the peer has closed the connection. A pipe reports that only to a read or write, so this never does.
#[derive(Debug)]
pub struct Hangup(());

impl Hangup {
    /// Always returns false.
    pub fn is_hung_up(&self) -> bool {
        false
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The close of the peer is a broken pipe on Windows; callers expect the end of the stream.
        match Pin::new(&mut self.0).poll_read(cx, buffer) {
            Poll::Ready(Err(err)) if err.kind() == io::ErrorKind::BrokenPipe => Poll::Ready(Ok(())),
            other => other,
        }
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

/// Connects to the pipe.
///
/// # Errors
/// If no process listens.
pub async fn connect(endpoint: &Endpoint) -> Result<Stream, ConnectError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ConnectError::NoDaemon {
            endpoint: endpoint.to_string(),
            source,
        },
        _ => ConnectError::Io {
            endpoint: endpoint.to_string(),
            source,
        },
    };
    let name = endpoint.path().to_fs_name::<NamedPipe>().map_err(failed)?;
    match local::Stream::connect(name).await {
        Ok(stream) => Ok(Stream(stream)),
        Err(err) if err.raw_os_error() == Some(ERROR_PIPE_BUSY) => {
            Err(failed(io::Error::new(io::ErrorKind::WouldBlock, err)))
        }
        Err(err) => Err(failed(err)),
    }
}

pub(super) fn prepare(endpoint: &Endpoint) -> Result<(), ListenError> {
    std::fs::create_dir_all(endpoint.state_dir())
        .map_err(|err| failed("creating the directory", endpoint.state_dir(), err))
}

/// Listens: creates the state directory, takes the lock, creates the pipe.
///
/// # Errors
/// [`ListenError::Running`] if another daemon holds the lock or the pipe; else what failed.
pub fn listen(endpoint: &Endpoint) -> Result<Listener, ListenError> {
    prepare(endpoint)?;
    let lock = lock(endpoint)?;
    Ok(Listener {
        inner: create(endpoint)?,
        endpoint: endpoint.clone(),
        _lock: lock,
    })
}

fn lock(endpoint: &Endpoint) -> Result<File, ListenError> {
    let path = endpoint.beside("lock");
    let file = File::create(&path).map_err(|err| failed("opening the lock file", &path, err))?;
    // Other processes cannot read a locked file on Windows, so the pid is in a second file.
    let pid = endpoint.beside("pid");
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let text = std::fs::read_to_string(&pid).unwrap_or_default();
            return Err(ListenError::Running {
                pid: text.trim().parse().ok(),
                endpoint: endpoint.to_string(),
            });
        }
        Err(TryLockError::Error(err)) => return Err(failed("locking", &path, err)),
    }
    std::fs::write(&pid, format!("{}\n", std::process::id()))
        .map_err(|err| failed("writing", &pid, err))?;
    Ok(file)
}

fn create(endpoint: &Endpoint) -> Result<local::Listener, ListenError> {
    let path = endpoint.path();
    let name = path
        .to_fs_name::<NamedPipe>()
        .map_err(|err| failed("naming the pipe", path, err))?;
    let sddl = widestring_of(OWNER_AND_SYSTEM)
        .map_err(|err| failed("making the security descriptor of", path, err))?;
    let descriptor = SecurityDescriptor::deserialize(&sddl)
        .map_err(|err| failed("making the security descriptor of", path, err))?;
    ListenerOptions::new()
        .name(name)
        .security_descriptor(descriptor)
        .create_tokio()
        .map_err(|err| match err.raw_os_error() {
            Some(ERROR_ACCESS_DENIED | ERROR_PIPE_BUSY) => ListenError::Running {
                pid: None,
                endpoint: endpoint.to_string(),
            },
            _ => failed("listening at", path, err),
        })
}

fn widestring_of(text: &str) -> io::Result<widestring::U16CString> {
    widestring::U16CString::from_str(text)
        .map_err(|err| io::Error::new(io::ErrorKind::InvalidInput, err))
}

/// Listening pipe of a daemon.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    inner: local::Listener,
    /// Held as long as the listener exists: the process that holds it is the daemon.
    _lock: File,
}

impl Listener {
    /// Accepts the next client; the security descriptor of the pipe excludes other users.
    ///
    /// # Errors
    /// If the system fails; the listener keeps working.
    ///
    /// # Cancel safety
    /// Cancel-safe: no client is lost.
    pub async fn accept(&self) -> Result<Stream, AcceptError> {
        Ok(Stream(self.inner.accept().await?))
    }

    /// Returns the endpoint of the listener.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Always returns true: a pipe has no file that could be deleted.
    pub fn is_in_place(&self) -> bool {
        true
    }

    /// Does nothing, see [`Self::is_in_place`].
    ///
    /// # Errors
    /// Never.
    pub fn rebind(&mut self) -> Result<(), ListenError> {
        Ok(())
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> ListenError {
    ListenError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sid_is_found_in_the_output_of_whoami() {
        let sid = sid_in("\"pc\\anna, b\",\"S-1-5-21-1-2-3-1001\"\r\n");
        assert_eq!(sid.as_deref(), Some("S-1-5-21-1-2-3-1001"));
        assert_eq!(sid_in("nothing"), None);
    }
}
