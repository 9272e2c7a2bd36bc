//! systemd's journal, used when standard error is connected to it. Lines get the journal field `TUNNEL=`.
//!
//! Writing to the journal's socket blocks while the journal is frozen, so only the log's own thread does it: it emits
//! each line a second time, into a subscriber that has the journald layer and no other user.

use tunneld_proto::message::LogLine;

#[cfg(target_os = "linux")]
pub(super) use linux::Journal;

/// Placeholder for systems without a journal; it has no values.
#[cfg(not(target_os = "linux"))]
pub(super) enum Journal {}

#[cfg(not(target_os = "linux"))]
impl Journal {
    pub(super) fn open() -> Option<Self> {
        None
    }

    pub(super) fn write(&self, _: &LogLine) {
        match *self {}
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::LogLine;
    use tracing::Dispatch;
    use tracing_journald::{Priority, PriorityMappings};
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;

    /// Target of the events that are meant for the journal alone.
    const TARGET: &str = "tunneld::journal";

    /// Subscriber with the journald layer.
    pub(in super::super) struct Journal(Dispatch);

    impl Journal {
        /// Connects to the journal. `None` if `JOURNAL_STREAM` does not name the file behind standard error
        /// (systemd.exec(5): device and inode), or if the journal's socket does not exist.
        pub(in super::super) fn open() -> Option<Self> {
            let stream = std::env::var("JOURNAL_STREAM").ok()?;
            let stderr = rustix::fs::fstat(std::io::stderr()).ok()?;
            // The variable is inherited by children whose stderr was redirected since: compare the file itself.
            if stream != format!("{}:{}", stderr.st_dev, stderr.st_ino) {
                return None;
            }
            let layer = tracing_journald::layer()
                .ok()?
                .with_field_prefix(None)
                .with_syslog_identifier("tunneld".into())
                .with_priority_mappings(PriorityMappings {
                    error: Priority::Error,
                    warn: Priority::Warning,
                    info: Priority::Informational,
                    debug: Priority::Debug,
                    trace: Priority::Debug,
                });
            // tracing caches for each call site whether any subscriber wants it. Without this filter every call site
            // of the daemon would count as wanted by this subscriber.
            let only_own = Targets::new().with_target(TARGET, LevelFilter::TRACE);
            let subscriber = tracing_subscriber::registry().with(only_own).with(layer);
            Some(Self(subscriber.into()))
        }

        pub(in super::super) fn write(&self, line: &LogLine) {
            let tunnel = line.tunnel.as_deref();
            let message = &line.message;
            tracing::dispatcher::with_default(&self.0, || match line.level.as_str() {
                "error" => tracing::error!(target: TARGET, TUNNEL = tunnel, "{message}"),
                "warn" => tracing::warn!(target: TARGET, TUNNEL = tunnel, "{message}"),
                "info" => tracing::info!(target: TARGET, TUNNEL = tunnel, "{message}"),
                _ => tracing::debug!(target: TARGET, TUNNEL = tunnel, "{message}"),
            });
        }
    }
}
