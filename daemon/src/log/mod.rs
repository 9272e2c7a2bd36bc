//! The log: a tracing layer turns every event into a line, keeps the recent lines of each tunnel in memory, and queues
//! them for a thread that writes.
//!
//! A full disk, a closed pipe or a frozen journal never delays a tunnel: the queue to the thread is bounded, and lines
//! that do not fit are dropped and counted.

mod collector;
mod journal;
mod ring;
mod sink;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

pub use ring::Ring;
use sink::{LogWriter, Sink};

/// Filter that is used if neither the command line, `RUST_LOG` nor the configuration sets one.
pub const DEFAULT_FILTER: &str = "info";

/// Handle to the running log; clones share it.
#[derive(Clone)]
pub struct Log {
    ring: Arc<Ring>,
    writer: LogWriter,
    filter: FilterHandle,
}

type FilterHandle = reload::Handle<Targets, Registry>;

impl Log {
    /// Starts the log for the whole process. It writes to `file` if one is given, otherwise to the journal if standard
    /// error is connected to it, or else to standard error.
    ///
    /// # Errors
    /// An error if the filter does not parse, the file cannot be opened, or a log runs already.
    pub fn start(filter: &str, file: Option<&Path>) -> anyhow::Result<Self> {
        let filter = parse_filter(filter)?;
        let sink = Sink::open(file)?;
        let (log, subscriber) = Self::build(filter, sink)?;
        subscriber
            .try_init()
            .context("cannot start the log: one runs already")?;
        Ok(log)
    }

    fn build(filter: Targets, sink: Sink) -> anyhow::Result<(Self, tracing::Dispatch)> {
        let ring = Arc::new(Ring::default());
        let writer = LogWriter::start(sink).context("cannot start the log's thread")?;
        let (filter, handle) = reload::Layer::new(filter);
        let collector = collector::Collector::new(ring.clone(), writer.clone());
        let subscriber = tracing_subscriber::registry().with(filter).with(collector);
        let log = Self {
            ring,
            writer,
            filter: handle,
        };
        Ok((log, subscriber.into()))
    }

    /// Returns a log that writes to the null device and is not installed for the process.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        let sink = Sink::open(Some(Path::new(if cfg!(windows) {
            "NUL"
        } else {
            "/dev/null"
        })));
        let filter = parse_filter(DEFAULT_FILTER).unwrap();
        Self::build(filter, sink.unwrap()).unwrap().0
    }

    /// Returns the recent lines and the feed of new ones.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Returns how many lines were lost, because they came too fast or could not be written.
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }

    /// Replaces the filter; see [`parse_filter`] for its grammar.
    ///
    /// # Errors
    /// An error if the filter does not parse. The old filter stays in that case.
    pub fn set_filter(&self, filter: &str) -> anyhow::Result<()> {
        self.filter
            .reload(parse_filter(filter)?)
            .context("cannot change the log filter")
    }

    /// Waits until the lines logged so far are written, at most for `limit`.
    pub fn flush(&self, limit: Duration) {
        self.writer.flush(limit);
    }
}

/// Parses a log filter: a level, or pairs such as `info,tunneld=debug`.
///
/// # Errors
/// The part that does not parse, escaped: `RUST_LOG` and `log.set_level` may hold any text.
pub fn parse_filter(filter: &str) -> anyhow::Result<Targets> {
    tunneld_config::log_filter::parse(filter)
        .map_err(|error| anyhow::anyhow!(tunneld_proto::text::escape(&error)))
}

#[cfg(test)]
mod tests;
