//! Programs that a dial runs: a command that says one line (host_command, password_command, …), and the ProxyCommand
//! whose stdin and stdout carry the session. Each has a process group of its own, which is killed as a whole.

use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use secrecy::SecretString;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use zeroize::Zeroize;

use crate::text;

/// How much of a command's answer is taken.
const ANSWER_LIMIT: u64 = 64 * 1024;
/// How much of a command's stderr is kept.
const STDERR_LIMIT: usize = 8 * 1024;

/// A child and its whole process group, killed when dropped.
struct Group(Child);

impl Group {
    fn spawn(mut command: Command) -> io::Result<Self> {
        command.kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        command.spawn().map(Self)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(group) = self
            .0
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw)
        {
            use rustix::process::{Signal, kill_process_group};
            let _gone_already = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs `argv` and gives the first line of its stdout, which may be a secret. An error tells the program's name and
/// its stderr, never its stdout.
pub(super) async fn first_line(argv: &[String]) -> Result<SecretString, String> {
    let mut said = output(argv).await?;
    let line = first_line_of(&said);
    said.zeroize();
    let name = argv
        .first()
        .map(|name| text::escape(name))
        .unwrap_or_default();
    line.ok_or_else(|| format!("{name} said nothing that could be used"))
}

/// Runs `argv` and gives its stdout, up to 64 KiB.
pub(super) async fn output(argv: &[String]) -> Result<Vec<u8>, String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("no command is given".into());
    };
    let name = text::escape(program);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Group::spawn(command).map_err(|error| format!("running {name}: {error}"))?;
    let (Some(stdout), Some(mut stderr)) = (child.0.stdout.take(), child.0.stderr.take()) else {
        return Err(format!("running {name}: its output is not to be had"));
    };
    let mut said = Vec::with_capacity(4096);
    let mut complaint = Vec::new();
    let mut stdout = stdout.take(ANSWER_LIMIT);
    let (read, _) = tokio::join!(
        stdout.read_to_end(&mut said),
        read_capped(&mut stderr, &mut complaint)
    );
    let ended = child.0.wait().await;
    let tell = |what: String| {
        let complaint = text::escape_bytes(complaint.trim_ascii());
        match complaint.is_empty() {
            true => format!("{name} {what}"),
            false => format!("{name} {what}: {complaint}"),
        }
    };
    read.map_err(|error| tell(format!("could not be read: {error}")))?;
    let status = ended.map_err(|error| tell(format!("could not be waited for: {error}")))?;
    match status.success() {
        true => Ok(said),
        false => {
            said.zeroize();
            Err(tell(describe(status)))
        }
    }
}

fn first_line_of(said: &[u8]) -> Option<SecretString> {
    let line = said.split(|&byte| byte == b'\n').next()?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = std::str::from_utf8(line).ok()?;
    (!line.is_empty()).then(|| SecretString::from(line))
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with status {code}"),
        None => format!("ended: {status}"),
    }
}

async fn read_capped(from: &mut ChildStderr, into: &mut Vec<u8>) -> io::Result<()> {
    let mut space = [0; 1024];
    loop {
        let got = from.read(&mut space).await?;
        if got == 0 {
            return Ok(());
        }
        let room = STDERR_LIMIT.saturating_sub(into.len()).min(got);
        into.extend_from_slice(space.get(..room).unwrap_or_default());
    }
}

/// A running ProxyCommand.
pub(super) struct Proxy {
    stdin: ChildStdin,
    stdout: ChildStdout,
    _group: Group,
    _log: Arc<JoinSet<()>>,
}

/// How long after the command's end the last of its stderr is waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What a ProxyCommand wrote to stderr, escaped.
#[derive(Clone, Debug)]
pub(super) struct Complaint {
    text: Arc<Mutex<String>>,
    whole: CancellationToken,
    _log: Arc<JoinSet<()>>,
}

/// The end of [`Complaint`] that is written.
struct Complains {
    text: Arc<Mutex<String>>,
    _whole: DropGuard,
}

impl Complaint {
    /// All that it said, once it is gone; empty where that is nothing.
    pub(super) async fn last_words(&self) -> String {
        // A grandchild that left the group may hold the pipe open.
        let _whole_or_not = timeout(LAST_WORDS, self.whole.cancelled()).await;
        self.text
            .lock()
            .map(|text| text.clone())
            .unwrap_or_default()
    }
}

impl Complains {
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
    pub(super) fn start(command: &str, tunnel: &str) -> io::Result<(Self, Complaint)> {
        let mut shell = shell(command);
        shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut group = Group::spawn(shell)?;
        let child = &mut group.0;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("the command's pipes are not to be had"));
        };
        let (text, whole) = (Arc::default(), CancellationToken::new());
        let complains = Complains {
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
        let complaint = Complaint {
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
async fn log_stderr(stderr: ChildStderr, complains: Complains, tunnel: String) {
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
    use secrecy::ExposeSecret;

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn gives_the_first_line_alone() {
        let line = first_line(&sh("printf 'one\\r\\ntwo\\n'")).await.unwrap();
        assert_eq!(line.expose_secret(), "one");
    }

    #[tokio::test]
    async fn tells_why_there_is_none_and_no_secret() {
        let script = sh("echo hunter2; echo 'vault \u{1b}[1mlocked' >&2; exit 3");
        let error = first_line(&script).await.unwrap_err();
        assert_eq!(error, "/bin/sh ended with status 3: vault \\u{1b}[1mlocked");
        assert!(
            first_line(&sh("true"))
                .await
                .unwrap_err()
                .contains("said nothing")
        );
        let missing = first_line(&["/nonexistent/x".to_owned()])
            .await
            .unwrap_err();
        assert!(missing.contains("/nonexistent/x"), "{missing}");
    }

    #[tokio::test]
    async fn a_dropped_proxy_takes_its_whole_group_with_it() {
        // The grandchild holds the write end of a pipe whose other end we read: it closes when the grandchild dies.
        let (mut proxy, complaint) = Proxy::start(
            "sh -c 'sleep 600 & echo $! ; echo oops >&2; exec sleep 600'",
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
        assert_eq!(complaint.last_words().await, "oops");
    }
}
