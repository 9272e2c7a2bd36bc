//! Runs a ProxyCommand (ssh_config(5)). Its stdin and stdout carry the session; its stderr is logged and kept for the
//! error message. Expanding the tokens (`%h`, `%p`) is done by the dial.

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

/// A running ProxyCommand. Dropping it kills the command's process group.
pub(crate) struct ProxyCommand {
    stdin: ChildStdin,
    stdout: ChildStdout,
    _group: ProcessGroup,
    _stderr_task: Arc<JoinSet<()>>,
}

/// The beginning of what a ProxyCommand wrote to stderr, escaped. It outlives the command.
#[derive(Clone, Debug)]
pub(crate) struct StderrTail {
    text: Arc<Mutex<String>>,
    /// Cancelled when stderr has ended.
    ended: CancellationToken,
    // Keeps the reading task alive after the command is dropped, so that the last lines are read.
    _stderr_task: Arc<JoinSet<()>>,
}

/// The writing end of [`StderrTail`].
struct StderrWriter {
    text: Arc<Mutex<String>>,
    _ended: DropGuard,
}

impl StderrTail {
    /// Waits for the end of stderr, for a moment at most, and returns its text: at most 8 KiB, lines joined by `; `,
    /// empty if the command wrote nothing.
    pub(crate) async fn drain_stderr(&self) -> String {
        // A grandchild that left the process group may hold the pipe open: then the text so far has to do.
        let _ = timeout(STDERR_GRACE, self.ended.cancelled()).await;
        self.text
            .lock()
            .map(|text| text.clone())
            .unwrap_or_default()
    }
}

impl StderrWriter {
    fn add(&self, line: &str) {
        // The beginning is kept and not the end: the first line usually names the cause.
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

impl ProxyCommand {
    /// Starts `command`, whose tokens are expanded already, as OpenSSH does: `$SHELL -c "exec COMMAND"`.
    ///
    /// # Errors
    /// The shell cannot be started.
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
            return Err(io::Error::other("the command's pipes are missing"));
        };
        let (text, ended) = (Arc::default(), CancellationToken::new());
        let writer = StderrWriter {
            text: Arc::clone(&text),
            _ended: ended.clone().drop_guard(),
        };
        let mut stderr_task = JoinSet::new();
        stderr_task.spawn(read_stderr(stderr, writer, tunnel.to_owned()));
        let stderr_task = Arc::new(stderr_task);
        let proxy = Self {
            stdin,
            stdout,
            _group: group,
            _stderr_task: Arc::clone(&stderr_task),
        };
        let tail = StderrTail {
            text,
            ended,
            _stderr_task: stderr_task,
        };
        Ok((proxy, tail))
    }
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new(user_shell(std::env::var_os("SHELL")));
    // `exec` replaces the shell, so that signals and the exit status are the command's own.
    shell.arg("-c").arg(format!("exec {command}"));
    shell
}

/// Returns the shell that `$SHELL` names, as ssh takes it: users write their commands in its syntax. `/bin/sh` if it is not
/// set or not a path, and for accounts without a login, whose shell runs nothing.
#[cfg(unix)]
fn user_shell(named: Option<std::ffi::OsString>) -> std::path::PathBuf {
    let named = named.map(std::path::PathBuf::from);
    let usable = |shell: &std::path::PathBuf| {
        let name = shell.file_name().and_then(|name| name.to_str());
        shell.is_absolute() && !matches!(name, Some("nologin" | "false" | "true"))
    };
    named.filter(usable).unwrap_or_else(|| "/bin/sh".into())
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd.exe");
    shell.arg("/c").arg(command);
    shell
}

/// Reads stderr to its end: a full pipe would block the command. Logs and keeps its beginning only, so that a chatty
/// command neither fills the log nor the memory.
async fn read_stderr(stderr: ChildStderr, writer: StderrWriter, tunnel: String) {
    let mut lines = BufReader::new(stderr.take(u64::MAX));
    let mut logged = 0;
    loop {
        let mut line = Vec::new();
        // At most 4096 bytes at a time: a line may never end.
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
            tracing::info!(tunnel, "proxy_command: {line}");
        }
        writer.add(&line);
    }
}

impl AsyncRead for ProxyCommand {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, buf)
    }
}

impl AsyncWrite for ProxyCommand {
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

    #[test]
    fn the_shell_is_the_users_own() {
        for (named, shell) in [
            (Some("/bin/bash"), "/bin/bash"),
            (None, "/bin/sh"),
            (Some(""), "/bin/sh"),
            (Some("bash"), "/bin/sh"),
            (Some("/usr/sbin/nologin"), "/bin/sh"),
        ] {
            assert_eq!(
                user_shell(named.map(Into::into)),
                std::path::Path::new(shell)
            );
        }
    }

    #[tokio::test]
    async fn dropping_the_command_kills_its_process_group() {
        // The grandchild holds the write end of a pipe whose other end we read: it closes when the grandchild dies.
        let (mut proxy, stderr) = ProxyCommand::start(
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
        assert_eq!(stderr.drain_stderr().await, "oops");
    }
}
