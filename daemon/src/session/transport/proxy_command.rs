//! The ProxyCommand whose stdin and stdout carry the session, and what it says on stderr meanwhile.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader, ReadBuf};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tunneld_proto::text;

use tunneld_platform::subprocess::{ProcessGroup, STDERR_GRACE, STDERR_LIMIT};

/// A running ProxyCommand.
pub(crate) struct Proxy {
    stdin: ChildStdin,
    stdout: ChildStdout,
    _group: ProcessGroup,
    _log: Arc<JoinSet<()>>,
}

/// What a ProxyCommand wrote to stderr, escaped.
#[derive(Clone, Debug)]
pub(crate) struct StderrTail {
    text: Arc<Mutex<String>>,
    whole: CancellationToken,
    _log: Arc<JoinSet<()>>,
}

/// The end of [`StderrTail`] that is written.
struct StderrWriter {
    text: Arc<Mutex<String>>,
    _whole: DropGuard,
}

impl StderrTail {
    /// All that it said, once it is gone; empty where that is nothing.
    pub(crate) async fn drain_stderr(&self) -> String {
        // A grandchild that left the group may hold the pipe open.
        let _whole_or_not = timeout(STDERR_GRACE, self.whole.cancelled()).await;
        self.text
            .lock()
            .map(|text| text.clone())
            .unwrap_or_default()
    }
}

impl StderrWriter {
    fn add(&self, line: &str) {
        if let Ok(mut text) = self.text.lock()
            && text.len() + line.len() < STDERR_LIMIT
        {
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(line);
        }
    }
}

impl Proxy {
    /// Starts `command`, its tokens expanded, as OpenSSH does: by the shell, which it replaces.
    pub(crate) fn start(command: &str, tunnel: &str) -> io::Result<(Self, StderrTail)> {
        let mut shell = shell(command);
        shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut group = ProcessGroup::spawn(shell)?;
        let child = group.child();
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("the command's pipes are not to be had"));
        };
        let (text, whole) = (Arc::default(), CancellationToken::new());
        let complains = StderrWriter {
            text: Arc::clone(&text),
            _whole: whole.clone().drop_guard(),
        };
        let mut log = JoinSet::new();
        log.spawn(log_stderr(stderr, complains, tunnel.to_owned()));
        let log = Arc::new(log);
        let proxy = Self {
            stdin,
            stdout,
            _group: group,
            _log: Arc::clone(&log),
        };
        let complaint = StderrTail {
            text,
            whole,
            _log: log,
        };
        Ok((proxy, complaint))
    }
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("exec {command}"));
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd.exe");
    shell.arg("/c").arg(command);
    shell
}

/// Logs what the command says, as far as it is bearable, and keeps the beginning for the error.
async fn log_stderr(stderr: ChildStderr, complains: StderrWriter, tunnel: String) {
    let mut lines = BufReader::new(stderr.take(u64::MAX));
    let mut logged = 0;
    loop {
        let mut line = Vec::new();
        // A line without end is taken in pieces.
        let piece = (&mut lines).take(4096).read_until(b'\n', &mut line).await;
        match piece {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = text::escape_bytes(line.trim_ascii());
        if line.is_empty() {
            continue;
        }
        if logged < STDERR_LIMIT {
            logged += line.len();
            tracing::info!(tunnel, "the proxy command says: {line}");
        }
        complains.add(&line);
    }
}

impl AsyncRead for Proxy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, buf)
    }
}

impl AsyncWrite for Proxy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_proxy_takes_its_whole_group_with_it() {
        // The grandchild holds the write end of a pipe whose other end we read: it closes when the grandchild dies.
        let (mut proxy, complaint) = Proxy::start(
            "sh -c 'echo oops >&2; sleep 600 & echo $! ; exec sleep 600'",
            "t",
        )
        .unwrap();
        let mut pid = String::new();
        BufReader::new(&mut proxy)
            .read_line(&mut pid)
            .await
            .unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        assert!(std::fs::exists(&stat).unwrap());
        drop(proxy);
        let alive = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        while alive() {
            tokio::task::yield_now().await;
        }
        assert_eq!(complaint.drain_stderr().await, "oops");
    }
}
