//! Child processes: commands that print an answer (`host_command`, `password_command`, askpass, `ssh -G`) and
//! commands that are run for their effect (hooks).
//!
//! Each child leads its own process group, so that a kill also reaches what the child has started.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use secrecy::SecretString;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Duration, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tunneld_proto::text;
use zeroize::Zeroize;

use crate::panic;
use crate::program::{Limits, ProgramError, ProgramFuture, ProgramOutput, RunProgram};

/// Longest standard output of a command, in bytes: 4 MiB.
const STDOUT_LIMIT: usize = 4 << 20;
/// Bytes of a command's standard error that are kept: 8 KiB.
pub const STDERR_LIMIT: usize = 8 * 1024;
/// Time after the end of a command in which the rest of its standard error is read.
pub const STDERR_GRACE: Duration = Duration::from_millis(500);

/// The first descriptor that a child must not get: it gets standard input, output and error.
#[cfg(unix)]
const FIRST_PRIVATE_FD: i32 = 3;

/// A child and its process group. Dropping it kills the whole group.
pub struct ProcessGroup(Child);

impl ProcessGroup {
    /// Starts `command` as the leader of a new process group, with the umask and limits that the daemon was started with.
    ///
    /// # Errors
    /// The operating system's error if the program cannot be started.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        command.kill_on_drop(true);
        #[cfg(unix)]
        {
            command.process_group(0);
            // Rust's own descriptors have the flag already. Those of other libraries (the netlink socket of the network
            // watcher) and those that the daemon inherited do not.
            close_fds::set_fds_cloexec_threadsafe(FIRST_PRIVATE_FD, &[]);
            crate::child_settings::restore_in_child(&mut command);
        }
        // std panics if it cannot read whether the child has started.
        panic::catch(|| command.spawn())?.map(Self)
    }

    /// Returns the leader of the group, for its pipes and its exit status.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Sends SIGKILL to the process group, unless its leader has been reaped already. Windows: does nothing; the
    /// child itself is killed on drop.
    pub fn kill(&self) {
        // `id()` is `None` once the leader was reaped. The system may then give the number to another group.
        #[cfg(unix)]
        if let Some(group) = self
            .0
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw)
        {
            use rustix::process::{Signal, kill_process_group};
            let _already_gone = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `argv` and returns the first line of its standard output, without the line end. The line may be a secret.
///
/// # Errors
/// The program's name with its exit status and standard error, or that it printed no usable line. Standard output is
/// never part of the error.
pub async fn first_line(argv: &[String]) -> Result<SecretString, String> {
    let mut stdout = output(argv).await?;
    let line = first_line_of(&stdout);
    stdout.zeroize();
    let name = argv
        .first()
        .map(|name| text::escape(name))
        .unwrap_or_default();
    line.ok_or_else(|| {
        format!("{name} printed no usable line: it is empty, longer than 8 KiB, or not UTF-8")
    })
}

/// Runs `argv` and returns its standard output, at most 4 MiB. Processes that it leaves in the background keep
/// running, and may keep its standard error open.
///
/// # Errors
/// The program's name with its exit status and standard error, or that it printed too much. Standard output is never
/// part of the error.
pub async fn output(argv: &[String]) -> Result<Vec<u8>, String> {
    let (name, mut command) = prepare(argv)?;
    command.stdout(Stdio::piped());
    let mut child =
        ProcessGroup::spawn(command).map_err(|error| format!("cannot run {name}: {error}"))?;
    let (Some(stdout_pipe), Some(stderr_pipe)) = (child.0.stdout.take(), child.0.stderr.take())
    else {
        return Err(format!("cannot run {name}: its output has no pipe"));
    };
    // A large first buffer: a vector that grows leaves copies of a secret behind, which are not overwritten.
    let mut stdout = Vec::with_capacity(4096);
    let mut stderr = Vec::new();
    let ended = CancellationToken::new();
    let waiting = async {
        // One byte more than the limit, to tell a full answer from one that is too long.
        let read = stdout_pipe
            .take(STDOUT_LIMIT as u64 + 1)
            .read_to_end(&mut stdout)
            .await;
        if stdout.len() > STDOUT_LIMIT {
            return Err("printed more than 4 MiB".to_owned());
        }
        read.map_err(|error| format!("could not be read: {error}"))?;
        let status = child.0.wait().await;
        ended.cancel();
        Ok(status)
    };
    let draining = async {
        drain_stderr(stderr_pipe, &mut stderr, &ended).await;
        Ok(())
    };
    let status = match tokio::try_join!(waiting, draining) {
        Ok((status, ())) => status,
        Err(failure) => {
            stdout.zeroize();
            return Err(describe_failure(&name, &failure, &stderr));
        }
    };
    check_status(&name, status, &stderr).inspect_err(|_| stdout.zeroize())?;
    Ok(stdout)
}

/// Runs `argv` with `vars` added to its environment and waits for its end. Its standard output is discarded.
/// Processes that it leaves in the background keep running.
///
/// # Errors
/// The program's name with its exit status and standard error, or that it did not end within `limit` and was killed.
pub async fn run(argv: &[String], vars: &[(&str, &str)], limit: Duration) -> Result<(), String> {
    let (name, mut command) = prepare(argv)?;
    command.stdout(Stdio::null()).envs(vars.iter().copied());
    let mut child =
        ProcessGroup::spawn(command).map_err(|error| format!("cannot run {name}: {error}"))?;
    let Some(stderr_pipe) = child.0.stderr.take() else {
        return Err(format!("cannot run {name}: its standard error has no pipe"));
    };
    let mut stderr = Vec::new();
    let ended = CancellationToken::new();
    let waiting = async {
        let status = child.0.wait().await;
        ended.cancel();
        status
    };
    let draining = drain_stderr(stderr_pipe, &mut stderr, &ended);
    match timeout(limit, async { tokio::join!(waiting, draining).0 }).await {
        Ok(status) => check_status(&name, status, &stderr),
        Err(_) => {
            let failure = format!("did not end within {limit:?} and was killed");
            Err(describe_failure(&name, &failure, &stderr))
        }
    }
}

/// Returns the program's escaped name, and the command that runs it with an empty standard input.
fn prepare(argv: &[String]) -> Result<(String, Command), String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("the command is empty".into());
    };
    let mut command = Command::new(program);
    // An empty standard input: a program that asks there fails at once instead of waiting for ever.
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    Ok((text::escape(program), command))
}

/// Joins the program's name, what happened, and its standard error if it wrote any.
fn describe_failure(name: &str, failure: &str, stderr: &[u8]) -> String {
    let stderr = text::escape_bytes(stderr.trim_ascii());
    match stderr.is_empty() {
        true => format!("{name} {failure}"),
        false => format!("{name} {failure}: {stderr}"),
    }
}

fn check_status(name: &str, waited: io::Result<ExitStatus>, stderr: &[u8]) -> Result<(), String> {
    match waited {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(describe_failure(name, &describe_status(status), stderr)),
        Err(error) => {
            let failure = format!("could not be waited for: {error}");
            Err(describe_failure(name, &failure, stderr))
        }
    }
}

/// Returns the first line without its line end. `None` if it is empty or not UTF-8.
/// Longest first line, in bytes. It becomes a host, a password or an answer, which a packet of SSH has to hold.
const LINE_LIMIT: usize = 8 << 10;

fn first_line_of(stdout: &[u8]) -> Option<SecretString> {
    let line = stdout.split(|&byte| byte == b'\n').next()?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = std::str::from_utf8(line).ok()?;
    (1..=LINE_LIMIT)
        .contains(&line.len())
        .then(|| SecretString::from(line))
}

fn describe_status(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with status {code}"),
        None => format!("ended: {status}"),
    }
}

/// Appends a program's standard error to `text`, at most [`STDERR_LIMIT`] bytes, until the pipe is closed or
/// [`STDERR_GRACE`] has passed since `ended`.
pub async fn drain_stderr(mut pipe: ChildStderr, text: &mut Vec<u8>, ended: &CancellationToken) {
    // A background process that inherited the pipe may keep it open for as long as it runs.
    let grace_over = async {
        ended.cancelled().await;
        sleep(STDERR_GRACE).await;
    };
    tokio::select! {
        _closed = read_capped(&mut pipe, text) => {}
        () = grace_over => {}
    }
}

/// Reads to the end of the pipe, but keeps only the first [`STDERR_LIMIT`] bytes: a program whose pipe is not read
/// would block.
async fn read_capped(pipe: &mut ChildStderr, text: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let read = pipe.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let kept = STDERR_LIMIT.saturating_sub(text.len()).min(read);
        text.extend_from_slice(buffer.get(..kept).unwrap_or_default());
    }
}

/// Runs programs as tokio child processes.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioPrograms;

impl RunProgram for TokioPrograms {
    fn run<'a>(
        &'a self,
        program: &'a Path,
        arguments: &'a [OsString],
        limits: Limits,
    ) -> ProgramFuture<'a> {
        Box::pin(run_to_end(program, arguments, limits))
    }
}

async fn run_to_end(
    program: &Path,
    arguments: &[OsString],
    limits: Limits,
) -> Result<ProgramOutput, ProgramError> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut group = ProcessGroup::spawn(command)?;
    let output = timeout(limits.time, output_of(&mut group.0, limits.stdout)).await;
    match output {
        Ok(output) => Ok(output?),
        Err(_) => {
            group.kill();
            // SIGKILL cannot be refused: this wait only reaps the process.
            let _ = timeout(limits.time, group.0.wait()).await;
            Err(ProgramError::TimedOut)
        }
    }
}

async fn output_of(child: &mut Child, stdout_limit: u64) -> io::Result<ProgramOutput> {
    let (stdout_pipe, stderr_pipe) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = CancellationToken::new();
    let waiting = async {
        if let Some(pipe) = stdout_pipe {
            pipe.take(stdout_limit).read_to_end(&mut stdout).await?;
        }
        let status = child.wait().await;
        ended.cancel();
        status
    };
    let draining = async {
        if let Some(pipe) = stderr_pipe {
            drain_stderr(pipe, &mut stderr, &ended).await;
        }
    };
    let (status, ()) = tokio::join!(waiting, draining);
    Ok(ProgramOutput {
        status: status?,
        stdout,
        stderr,
    })
}

#[cfg(all(test, unix))]
mod tests;
