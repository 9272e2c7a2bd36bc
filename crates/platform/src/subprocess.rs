//! Programs that are run for the person: one that says a line (host_command, password_command, askpass, …), one that
//! is told something (a hook). Each has a process group of its own, which is killed as a whole.

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

use crate::program::{Limits, ProgramError, ProgramFuture, ProgramOutput, RunProgram};

/// How much a command may answer.
const ANSWER_LIMIT: usize = 4 << 20;
/// How much of a command's stderr is kept.
pub const STDERR_LIMIT: usize = 8 * 1024;
/// How long after a command's end the last of its stderr is waited for.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

/// A child and its whole process group, killed when dropped.
pub struct ProcessGroup(Child);

impl ProcessGroup {
    /// Starts `command` as the leader of a new process group.
    ///
    /// # Errors
    /// The operating system's error if the program cannot be started.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        command.kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        command.spawn().map(Self)
    }

    /// The child itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl ProcessGroup {
    /// Sends SIGKILL to the whole process group. Windows: the child is killed on drop.
    pub fn kill(&self) {
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

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `argv` and gives the first line of its stdout, which may be a secret. An error tells the program's name and
/// its stderr, never its stdout.
pub async fn first_line(argv: &[String]) -> Result<SecretString, String> {
    let mut said = output(argv).await?;
    let line = first_line_of(&said);
    said.zeroize();
    let name = argv
        .first()
        .map(|name| text::escape(name))
        .unwrap_or_default();
    line.ok_or_else(|| format!("{name} said nothing that could be used"))
}

/// Runs `argv` and gives its stdout; more than 4 MiB is an error. What it left in the background may go on, and hold
/// its stderr.
pub async fn output(argv: &[String]) -> Result<Vec<u8>, String> {
    let (name, mut command) = prepare(argv)?;
    command.stdout(Stdio::piped());
    let mut child =
        ProcessGroup::spawn(command).map_err(|error| format!("running {name}: {error}"))?;
    let (Some(stdout), Some(stderr)) = (child.0.stdout.take(), child.0.stderr.take()) else {
        return Err(format!("running {name}: its output is not to be had"));
    };
    let mut said = Vec::with_capacity(4096);
    let mut complaint = Vec::new();
    let ended = CancellationToken::new();
    let waiting = async {
        let read = stdout
            .take(ANSWER_LIMIT as u64 + 1)
            .read_to_end(&mut said)
            .await;
        if said.len() > ANSWER_LIMIT {
            return Err("said more than 4 MiB".to_owned());
        }
        read.map_err(|error| format!("could not be read: {error}"))?;
        let status = child.0.wait().await;
        ended.cancel();
        Ok(status)
    };
    let reading = async {
        drain_stderr(stderr, &mut complaint, &ended).await;
        Ok(())
    };
    let status = match tokio::try_join!(waiting, reading) {
        Ok((status, ())) => status,
        Err(trouble) => {
            said.zeroize();
            return Err(tell(&name, &trouble, &complaint));
        }
    };
    judge(&name, status, &complaint).inspect_err(|_| said.zeroize())?;
    Ok(said)
}

/// Runs `argv` with `vars` added to its environment until it ends, at most for `limit`; what it left in the
/// background stays. What it says on stdout is nobody's.
pub async fn run(argv: &[String], vars: &[(&str, &str)], limit: Duration) -> Result<(), String> {
    let (name, mut command) = prepare(argv)?;
    command.stdout(Stdio::null()).envs(vars.iter().copied());
    let mut child =
        ProcessGroup::spawn(command).map_err(|error| format!("running {name}: {error}"))?;
    let Some(stderr) = child.0.stderr.take() else {
        return Err(format!("running {name}: its stderr is not to be had"));
    };
    let mut complaint = Vec::new();
    let ended = CancellationToken::new();
    let waiting = async {
        let status = child.0.wait().await;
        ended.cancel();
        status
    };
    let reading = drain_stderr(stderr, &mut complaint, &ended);
    match timeout(limit, async { tokio::join!(waiting, reading).0 }).await {
        Ok(status) => judge(&name, status, &complaint),
        Err(_) => {
            let what = format!("did not end within {limit:?} and was killed");
            Err(tell(&name, &what, &complaint))
        }
    }
}

/// The program's name, escaped, and the command that runs it with no stdin.
fn prepare(argv: &[String]) -> Result<(String, Command), String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("no command is given".into());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    Ok((text::escape(program), command))
}

/// What happened to the program, and what it says about that itself.
fn tell(name: &str, what: &str, complaint: &[u8]) -> String {
    let complaint = text::escape_bytes(complaint.trim_ascii());
    match complaint.is_empty() {
        true => format!("{name} {what}"),
        false => format!("{name} {what}: {complaint}"),
    }
}

fn judge(name: &str, ended: io::Result<ExitStatus>, complaint: &[u8]) -> Result<(), String> {
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(tell(name, &describe(status), complaint)),
        Err(error) => {
            let what = format!("could not be waited for: {error}");
            Err(tell(name, &what, complaint))
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

/// Reads what a program complains of until it is silent or has ended: what it left in the background may hold the
/// pipe open.
pub async fn drain_stderr(
    mut stderr: ChildStderr,
    complaint: &mut Vec<u8>,
    ended: &CancellationToken,
) {
    let over = async {
        ended.cancelled().await;
        sleep(LAST_WORDS).await;
    };
    tokio::select! {
        _whole = read_capped(&mut stderr, complaint) => {}
        () = over => {}
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
            // SIGKILL cannot be refused: this only reaps the process.
            let _ = timeout(limits.time, group.0.wait()).await;
            Err(ProgramError::TimedOut)
        }
    }
}

async fn output_of(child: &mut Child, limit: u64) -> io::Result<ProgramOutput> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = CancellationToken::new();
    let waiting = async {
        if let Some(out) = out {
            out.take(limit).read_to_end(&mut stdout).await?;
        }
        let status = child.wait().await;
        ended.cancel();
        status
    };
    let draining = async {
        if let Some(err) = err {
            // A process that the program left in the background may keep the pipe open.
            drain_stderr(err, &mut stderr, &ended).await;
        }
    };
    let (status, ()) = tokio::join!(waiting, draining);
    Ok(ProgramOutput {
        status: status?,
        stdout,
        stderr,
    })
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
    async fn a_long_answer_is_whole_and_an_endless_one_an_error() {
        let long = output(&sh("head -c 3000000 /dev/zero")).await.unwrap();
        assert_eq!(long.len(), 3_000_000);
        let endless = output(&sh("yes")).await.unwrap_err();
        assert!(endless.contains("more than 4 MiB"), "{endless}");
    }

    #[tokio::test]
    async fn an_answer_does_not_wait_for_what_was_left_in_the_background() {
        let script = sh("sleep 600 >/dev/null & echo $! ; echo why >&2");
        let pid = timeout(Duration::from_secs(60), first_line(&script));
        let pid = pid.await.unwrap().unwrap();
        let pid = pid.expose_secret().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        // It still runs, and is this test's to end.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_hook_is_told_by_its_environment_and_complains_on_stderr() {
        let vars = [("TUNNELD_TEST", "a b")];
        let second = Duration::from_secs(10);
        let told = run(&sh("test \"$TUNNELD_TEST\" = 'a b'"), &vars, second).await;
        assert_eq!(told, Ok(()));
        let failed = run(&sh("echo lost; echo why >&2; exit 4"), &vars, second).await;
        assert_eq!(failed, Err("/bin/sh ended with status 4: why".into()));
    }

    #[tokio::test]
    async fn a_hook_without_end_is_killed_as_a_group() {
        // The grandchild holds the FIFO's only write end: its reader meets the end when the grandchild is killed.
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        crate::testing::make_fifo(&fifo);
        let mut reader = tokio::net::unix::pipe::OpenOptions::new()
            .open_receiver(&fifo)
            .unwrap();
        let writer = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
        let script = format!("echo stuck >&2; sleep 600 3>'{}' & wait", fifo.display());
        let ended = run(&sh(&script), &[], Duration::from_millis(500)).await;
        let error = ended.unwrap_err();
        assert!(error.ends_with("was killed: stuck"), "{error}");
        drop(writer);
        assert_eq!(reader.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_hook_may_leave_a_program_in_the_background() {
        let ended = run(&sh("sleep 5 & exit 0"), &[], Duration::from_secs(4)).await;
        assert_eq!(ended, Ok(()));
    }
}
