//! Child processes whose output lines tests wait for, and what /proc says about a process.
//!
//! A [`Process`] is killed on drop, by its own id.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::wait::{LONG, within};

/// The lines that a process has written to stdout and stderr so far. Clones share them.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Log {
    /// A copy of every line so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Every line so far, joined by newlines.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// The number of lines so far: a position for [`Log::wait_after`] and [`Log::count_after`].
    pub fn mark(&self) -> usize {
        *self.count.borrow()
    }

    /// The number of lines after `mark` that contain `needle`.
    pub fn count_after(&self, mark: usize, needle: &str) -> usize {
        let lines = self.lines();
        let after = lines.iter().skip(mark);
        after.filter(|line| line.contains(needle)).count()
    }

    /// Waits for a line that contains `needle`, from the first line on, and returns it.
    ///
    /// # Errors
    /// If no such line is written within `limit`, or the process ends without it.
    pub async fn wait(&self, needle: &str, limit: Duration) -> Result<String> {
        self.wait_after(0, needle, limit).await
    }

    /// Waits for a line after `mark` that contains `needle`, and returns it.
    ///
    /// # Errors
    /// If no such line is written within `limit`, or the process ends without it.
    pub async fn wait_after(&self, mark: usize, needle: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut count = self.count.clone();
        loop {
            // Marked as seen before the lines are read: a line that is written in between wakes the wait below.
            let _ = count.borrow_and_update();
            let lines = self.lines();
            if let Some(line) = lines.iter().skip(mark).find(|line| line.contains(needle)) {
                return Ok(line.clone());
            }
            match timeout_at(deadline, count.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => bail!("the process ended without {needle:?}:\n{}", tail(&lines)),
                Err(_) => bail!("no line with {needle:?} in {limit:?}:\n{}", tail(&lines)),
            }
        }
    }
}

/// The last 60 lines, for an error message.
fn tail(lines: &[String]) -> String {
    let skip = lines.len().saturating_sub(60);
    lines
        .iter()
        .skip(skip)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n")
}

/// A child process, killed on drop.
pub struct Process {
    name: String,
    child: Child,
    pid: u32,
    log: Log,
    _readers: JoinSet<()>,
}

impl Process {
    /// Starts `command` with an empty stdin; its stdout and stderr become the log. `name` is for error messages.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let pid = child
            .id()
            .with_context(|| format!("{name} ended at once"))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let sender = Arc::new(sender);
        let mut readers = JoinSet::new();
        if let Some(out) = child.stdout.take() {
            readers.spawn(read_lines(out, lines.clone(), sender.clone()));
        }
        if let Some(err) = child.stderr.take() {
            readers.spawn(read_lines(err, lines.clone(), sender));
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
            log: Log { lines, count },
            _readers: readers,
        })
    }

    /// The process id; of the wrapper if the command has a prefix that does not `exec`.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The lines that it has written.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self::signal(self.pid, signal)
    }

    /// Waits until the process ends.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub async fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end; its log:\n{}", self.name, self.log.text());
        Ok(within(limit, &what, self.child.wait()).await??)
    }

    /// Sends SIGKILL and waits until the process ends.
    ///
    /// # Errors
    /// If it still runs after [`LONG`].
    pub async fn kill(&mut self) -> Result<()> {
        let _ = self.child.start_kill();
        self.wait_exit(LONG).await?;
        Ok(())
    }
}

/// The exit code, or 128 + the number of the signal that ended the process, as a shell reports it.
pub fn exit_code(status: ExitStatus) -> i32 {
    let signal = status.signal().map(|number| 128 + number);
    status.code().or(signal).unwrap_or(-1)
}

async fn read_lines(
    stream: impl AsyncRead + Unpin,
    lines: Arc<Mutex<Vec<String>>>,
    count: Arc<watch::Sender<usize>>,
) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(n) if n > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        let len = {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(text);
            lines.len()
        };
        count.send_replace(len);
    }
}

/// The command prefix that runs a command in its own mount namespace, where each file is mounted over its target
/// path. Root is required.
pub fn bind_mount_prefix(files: &[(PathBuf, &str)]) -> Vec<String> {
    let script = "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit 1; shift 2; done; shift; exec \"$@\"";
    let mut words = ["unshare", "--mount", "sh", "-c", script, "sh"]
        .map(str::to_owned)
        .to_vec();
    for (file, target) in files {
        words.extend([file.display().to_string(), (*target).to_owned()]);
    }
    words.push("--".to_owned());
    words
}

/// The command that runs `program` by `prefix`; `program` alone if the prefix is empty.
pub fn command_with_prefix(before: &[String], program: impl AsRef<OsStr>) -> Command {
    let Some((first, rest)) = before.split_first() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// Runs a tool to its end and returns its stdout.
///
/// # Errors
/// If it cannot be run or fails; the message contains its output.
pub async fn run_tool(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .await
        .with_context(|| {
            format!("cannot run {program}; tests/run installs what the suite needs")
        })?;
    ensure!(
        output.status.success(),
        "{program} {args:?} failed: {}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes a shell script that only its owner can run.
///
/// # Errors
/// If it cannot be written.
pub fn write_script(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    Ok(std::fs::set_permissions(
        path,
        PermissionsExt::from_mode(0o700),
    )?)
}

/// Whether the process `pid` exists and is not a zombie, which its parent has not waited for yet.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until none of these processes is alive.
///
/// # Errors
/// If one still is after [`LONG`].
pub async fn wait_gone(pids: &[u32]) -> Result<()> {
    let what = format!("the end of the processes {pids:?}");
    within(LONG, &what, async {
        while pids.iter().any(|pid| is_alive(*pid)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Sends `signal` to the process `pid`.
///
/// # Errors
/// If the process does not exist, or belongs to another user.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.context("no process id")?, signal)?)
}

/// The id of every process of the machine, each with the id of its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // `PID (NAME) STATE PPID …`: the name may contain spaces and parentheses, so the last `)` counts.
        let (_, rest) = stat.rsplit_once(')')?;
        Some((pid, rest.split_whitespace().nth(1)?.parse().ok()?))
    })
    .collect()
}

/// The ids of all descendants of the process `pid`, children before grandchildren.
pub fn descendants(pid: u32) -> Vec<u32> {
    let all = parents();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        let children = all.iter().filter(|(_, ppid)| *ppid == parent);
        found.extend(children.map(|(child, _)| *child));
    }
    found.remove(0);
    found
}

/// The number of open file descriptors of the process `pid`.
///
/// # Errors
/// If the process has ended.
pub fn open_file_count(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// The resident memory of the process `pid`, in bytes.
///
/// # Errors
/// If the process has ended.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("no VmRSS line")? * 1024)
}
