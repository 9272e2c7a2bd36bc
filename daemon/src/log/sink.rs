//! The thread that writes the log, and the bounded queue to it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use tunneld_proto::message::LogLine;

use super::journal::Journal;

/// Lines that wait for the thread at the most.
const QUEUE: usize = 4096;

/// Where lines end up.
pub(super) enum Sink {
    Stderr,
    File(File),
    Journal(Journal),
}

impl Sink {
    /// The file where one is given; else the journal where stderr leads to it; else stderr.
    pub(super) fn choose(file: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = file {
            let mut options = File::options();
            options.append(true).create(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options
                .open(path)
                .with_context(|| format!("cannot open the log file {}", path.display()))?;
            return Ok(Self::File(file));
        }
        Ok(Journal::open().map_or(Self::Stderr, Self::Journal))
    }

    fn write(&mut self, line: &LogLine) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().write_all(render(line).as_bytes()),
            Self::File(file) => file.write_all(render(line).as_bytes()),
            Self::Journal(journal) => {
                journal.write(line);
                Ok(())
            }
        }
    }
}

fn render(line: &LogLine) -> String {
    let LogLine {
        at, level, message, ..
    } = line;
    let level = level.to_ascii_uppercase();
    match &line.tunnel {
        Some(tunnel) => format!("{at:.3} {level:>5} tunnel={tunnel} {message}\n"),
        None => format!("{at:.3} {level:>5} {message}\n"),
    }
}

enum Message {
    Line(Arc<LogLine>),
    Flush(SyncSender<()>),
}

/// The near end of the queue.
#[derive(Clone)]
pub(super) struct Writer {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the thread; it ends when the last writer is gone.
    pub(super) fn start(sink: Sink) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Self {
            queue,
            dropped: dropped.clone(),
        };
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(sink, &lines, &dropped))?;
        Ok(writer)
    }

    /// Queues a line, or counts it as dropped; never waits.
    pub(super) fn write(&self, line: Arc<LogLine>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the lines queued so far are written, for `limit` at the most.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, waited) = sync_channel(1);
        match self.queue.try_send(Message::Flush(done)) {
            Ok(()) => drop(waited.recv_timeout(limit)),
            // A queue that is full belongs to a sink that is stuck.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn write_all(mut sink: Sink, lines: &Receiver<Message>, dropped: &AtomicU64) {
    let mut told = 0;
    for message in lines {
        match message {
            Message::Line(line) => {
                if sink.write(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let lost = dropped.load(Ordering::Relaxed);
                if lost > told && sink.write(&loss(&line, lost - told)).is_ok() {
                    told = lost;
                }
            }
            // Nobody waits any more: the flush ran out of time.
            Message::Flush(done) => drop(done.try_send(())),
        }
    }
}

fn loss(after: &LogLine, lost: u64) -> LogLine {
    LogLine {
        at: after.at,
        level: "warn".into(),
        tunnel: None,
        message: format!("{lost} log lines were dropped: the log did not take them in time"),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_does_not_move_costs_lines_and_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        tunneld_platform::testing::make_fifo(&path);
        // Open at both ends and never read: the thread blocks when the pipe is full.
        let _reader = File::options().read(true).write(true).open(&path).unwrap();
        let writer = Writer::start(Sink::choose(Some(&path)).unwrap()).unwrap();
        let line = Arc::new(LogLine {
            at: jiff::Timestamp::now(),
            level: "info".into(),
            tunnel: None,
            message: "x".repeat(1024),
        });
        for _ in 0..QUEUE * 2 {
            writer.write(line.clone());
        }
        assert!(
            writer.dropped() >= QUEUE as u64 - 128,
            "{}",
            writer.dropped()
        );
        writer.flush(Duration::from_millis(10));
    }
}
