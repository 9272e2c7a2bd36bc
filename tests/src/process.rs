//! A child process: its lines kept and waited for, itself killed by its id when dropped.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// The lines that a process has written so far.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Log {
    /// Every line so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Every line so far, as one text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// How many lines there are; a mark for [`Log::wait_after`] and [`Log::count_after`].
    pub fn mark(&self) -> usize {
        *self.count.borrow()
    }

    /// How many lines after `mark` hold `needle`.
    pub fn count_after(&self, mark: usize, needle: &str) -> usize {
        let lines = self.lines();
        let after = lines.iter().skip(mark);
        after.filter(|line| line.contains(needle)).count()
    }

    /// Waits for a line that holds `needle`.
    ///
    /// # Errors
    /// Where none came in time, or the process ended without it.
    pub async fn wait(&self, needle: &str, limit: Duration) -> Result<String> {
        self.wait_after(0, needle, limit).await
    }

    /// Waits for a line after `mark` that holds `needle`.
    ///
    /// # Errors
    /// Where none came in time, or the process ended without it.
    pub async fn wait_after(&self, mark: usize, needle: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut count = self.count.clone();
        loop {
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

fn tail(lines: &[String]) -> String {
    let skip = lines.len().saturating_sub(60);
    lines
        .iter()
        .skip(skip)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n")
}

/// A running child process.
pub struct Process {
    name: String,
    child: Child,
    pid: u32,
    log: Log,
    _readers: JoinSet<()>,
}

impl Process {
    /// Starts `command`, whose stdout and stderr become the log.
    ///
    /// # Errors
    /// Where it cannot be started.
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

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self::signal(self.pid, signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it still runs when the time is over.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end; its log:\n{}", self.name, self.log.text());
        Ok(crate::wait::within(limit, &what, self.child.wait()).await??)
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// Where the kernel keeps it.
    pub async fn kill(&mut self) -> Result<()> {
        let _ = self.child.start_kill();
        self.ended(crate::wait::LONG).await?;
        Ok(())
    }
}

/// The exit code, or 128 + the signal's number as a shell tells it.
pub fn code(status: ExitStatus) -> i32 {
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

/// What goes before a command that runs in a mount namespace of its own, each of the files bound over its place.
pub fn mounting(files: &[(PathBuf, &str)]) -> Vec<String> {
    let script = "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit 1; shift 2; done; shift; exec \"$@\"";
    let mut words = ["unshare", "--mount", "sh", "-c", script, "sh"]
        .map(str::to_owned)
        .to_vec();
    for (file, place) in files {
        words.extend([file.display().to_string(), (*place).to_owned()]);
    }
    words.push("--".to_owned());
    words
}

/// `program` as a command, after the words that go before it.
pub fn wrapped(before: &[String], program: impl AsRef<OsStr>) -> Command {
    let Some((first, rest)) = before.split_first() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// Sends `signal` to the process `pid`.
///
/// # Errors
/// Where there is no such process, or it is not ours.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.context("no process id")?, signal)?)
}

/// The parent of every process, by id.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, even a parenthesis.
        let (_, rest) = stat.rsplit_once(')')?;
        Some((pid, rest.split_whitespace().nth(1)?.parse().ok()?))
    })
    .collect()
}

/// The processes below `pid`, children before grandchildren.
pub fn descendants(pid: u32) -> Vec<u32> {
    let all = parents();
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        at += 1;
        found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(c, _)| *c));
    }
    found.remove(0);
    found
}

/// What the process `pid` has open: the number of file descriptors.
///
/// # Errors
/// Where it is gone.
pub fn open_files(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// The resident memory of the process `pid`, in bytes.
///
/// # Errors
/// Where it is gone.
pub fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("no VmRSS line")? * 1024)
}
