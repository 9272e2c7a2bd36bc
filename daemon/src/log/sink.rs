//! The destination of the log, the thread that writes to it, and the bounded queue to that thread.

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

/// Lines that may wait for the thread.
const QUEUE_LENGTH: usize = 4096;

/// Destination of the log lines.
pub(super) enum Sink {
    Stderr,
    File(File),
    Journal(Journal),
}

impl Sink {
    /// Opens `file` for appending (mode 0600) if one is given. Otherwise returns the journal if standard error is
    /// connected to it, or else standard error.
    pub(super) fn open(file: Option<&Path>) -> anyhow::Result<Self> {
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

enum WriterMessage {
    Line(Arc<LogLine>),
    /// Request to confirm that all earlier lines are written.
    Flush(SyncSender<()>),
}

/// Handle to the writer thread: the sending end of its queue.
#[derive(Clone)]
pub(super) struct LogWriter {
    queue: SyncSender<WriterMessage>,
    dropped: Arc<AtomicU64>,
}

impl LogWriter {
    /// Starts the thread. It ends when the last handle is dropped.
    pub(super) fn start(sink: Sink) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE_LENGTH);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Self {
            queue,
            dropped: dropped.clone(),
        };
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(sink, &messages, &dropped))?;
        Ok(writer)
    }

    /// Queues a line. If the queue is full, the line is dropped and counted: a tunnel never waits for its log.
    pub(super) fn write(&self, line: Arc<LogLine>) {
        if self.queue.try_send(WriterMessage::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many lines were dropped, because the queue was full or the sink failed.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the lines queued so far are written, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, confirmed) = sync_channel(1);
        match self.queue.try_send(WriterMessage::Flush(done)) {
            Ok(()) => drop(confirmed.recv_timeout(limit)),
            // A full queue means that the sink is stuck: waiting would not help.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn write_all(mut sink: Sink, messages: &Receiver<WriterMessage>, dropped: &AtomicU64) {
    let mut reported = 0;
    for message in messages {
        match message {
            WriterMessage::Line(line) => {
                if sink.write(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                // The sink works again: write how many lines are missing before this point.
                let total = dropped.load(Ordering::Relaxed);
                if total > reported && sink.write(&dropped_line(&line, total - reported)).is_ok() {
                    reported = total;
                }
            }
            // The send fails if `flush` has reached its limit and no longer waits.
            WriterMessage::Flush(done) => drop(done.try_send(())),
        }
    }
}

fn dropped_line(after: &LogLine, count: u64) -> LogLine {
    LogLine {
        at: after.at,
        level: "warn".into(),
        tunnel: None,
        message: format!(
            "{count} log lines were dropped: the log was too slow or could not be written"
        ),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_sink_costs_lines_but_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        tunneld_platform::testing::make_fifo(&path);
        // Opened at both ends, so that the open does not block, and never read: the thread blocks when the pipe is full.
        let _reader = File::options().read(true).write(true).open(&path).unwrap();
        let writer = LogWriter::start(Sink::open(Some(&path)).unwrap()).unwrap();
        let line = Arc::new(LogLine {
            at: jiff::Timestamp::now(),
            level: "info".into(),
            tunnel: None,
            message: "x".repeat(1024),
        });
        for _ in 0..QUEUE_LENGTH * 2 {
            writer.write(line.clone());
        }
        assert!(
            writer.dropped() >= QUEUE_LENGTH as u64 - 128,
            "{}",
            writer.dropped()
        );
        writer.flush(Duration::from_millis(10));
    }
}
