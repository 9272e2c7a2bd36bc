//! The log: one collector takes every event, keeps the last lines of each tunnel, and hands them on to a
//! thread that writes. Neither a full disk, a closed pipe nor a frozen journal ever delays a tunnel: the
//! queue to the thread is bounded, and what does not fit is counted.

mod collector;
mod journal;
mod ring;
mod sink;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

pub use ring::Ring;
use sink::{Sink, Writer};

use tunneld_config::log_filter::check_levels;

/// What is logged where nothing else was said. The SSH library repeats what hostile peers send, so it is kept short.
pub const DEFAULT_FILTER: &str = "info,russh=error";

/// The running log: its last lines, its level, its losses.
#[derive(Clone)]
pub struct Log {
    ring: Arc<Ring>,
    writer: Writer,
    filter: Filter,
}

type Filter = reload::Handle<EnvFilter, Registry>;

impl Log {
    /// Starts the log for the whole process: to `file`, else to the journal where stderr leads there, else to stderr.
    ///
    /// # Errors
    /// A filter that does not parse, a file that cannot be opened, or a log that runs already.
    pub fn start(filter: &str, file: Option<&Path>) -> anyhow::Result<Self> {
        let filter = parse(filter)?;
        let sink = Sink::choose(file)?;
        let (log, subscriber) = Self::build(filter, sink)?;
        subscriber
            .try_init()
            .context("cannot start the log: one runs already")?;
        Ok(log)
    }

    fn build(filter: EnvFilter, sink: Sink) -> anyhow::Result<(Self, tracing::Dispatch)> {
        let ring = Arc::new(Ring::default());
        let writer = Writer::start(sink).context("cannot start the log's thread")?;
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

    /// A log that nothing is written to.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        let sink = Sink::choose(Some(Path::new(if cfg!(windows) {
            "NUL"
        } else {
            "/dev/null"
        })));
        let filter = EnvFilter::new(DEFAULT_FILTER);
        Self::build(filter, sink.unwrap()).unwrap().0
    }

    /// The last lines, and the coming ones.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// How many lines were lost because the sink did not take them.
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }

    /// Logs by another filter, in `RUST_LOG`'s grammar, from now on.
    ///
    /// # Errors
    /// A filter that does not parse; the old one stays.
    pub fn set_filter(&self, filter: &str) -> anyhow::Result<()> {
        self.filter
            .reload(parse(filter)?)
            .context("cannot change the log filter")
    }

    /// Waits until what was logged is written, for `limit` at the most.
    pub fn flush(&self, limit: Duration) {
        self.writer.flush(limit);
    }
}

/// Proves a filter.
///
/// # Errors
/// What of it does not parse.
pub fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    check_levels(filter).map_err(|error| anyhow::anyhow!(tunneld_proto::text::escape(&error)))?;
    EnvFilter::builder()
        .parse(filter)
        .with_context(|| format!("`{}` is no log filter", tunneld_proto::text::escape(filter)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn logged_to_file(filter: &str, act: impl FnOnce(&Log)) -> (Log, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let sink = Sink::choose(Some(&path)).unwrap();
        let (log, subscriber) = Log::build(parse(filter).unwrap(), sink).unwrap();
        tracing::dispatcher::with_default(&subscriber, || act(&log));
        log.flush(Duration::from_secs(5));
        let mut text = String::new();
        std::fs::File::open(&path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        (log, text)
    }

    #[test]
    fn lines_bear_their_tunnel_and_foreign_text_is_escaped() {
        let (log, text) = logged_to_file("info", |_| {
            tracing::info!(tunnel = "db", port = 5432, "listening");
            tracing::warn!(tunnel = "db", "banner: {}", "\u{1b}[2J");
            tracing::debug!("not shown");
            tracing::error!("all");
        });
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.contains(" INFO tunnel=db listening port=5432\n"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
        let lines = log.ring().tail(Some("db"), None);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].message, "listening port=5432");
        assert_eq!(lines[1].level, "warn");
        assert_eq!(log.ring().tail(None, None).len(), 3);
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_span_names_the_tunnel_of_what_happens_inside() {
        let (log, _) = logged_to_file("info", |_| {
            tracing::info_span!("tunnel", tunnel = "db").in_scope(|| tracing::info!("inside"));
        });
        assert_eq!(log.ring().tail(Some("db"), None).len(), 1);
    }

    #[test]
    fn the_level_changes_while_it_runs() {
        let (log, text) = logged_to_file("warn", |log| {
            tracing::info!("before");
            assert!(log.set_filter("=[nonsense").is_err());
            log.set_filter("debug").unwrap();
            tracing::debug!("after");
        });
        assert!(!text.contains("before") && text.contains("after"), "{text}");
        assert_eq!(log.ring().tail(None, None).len(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let sink = Sink::choose(Some(Path::new("/dev/full"))).unwrap();
        let (log, subscriber) = Log::build(parse("info").unwrap(), sink).unwrap();
        tracing::dispatcher::with_default(&subscriber, || {
            for _ in 0..10 {
                tracing::info!("lost");
            }
        });
        log.flush(Duration::from_secs(5));
        assert_eq!(log.dropped(), 10);
        assert_eq!(log.ring().tail(None, None).len(), 10);
    }
}
