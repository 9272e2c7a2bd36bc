//! systemd's journal, with fields of its own (`TUNNEL=`), where stderr is connected to it.
//!
//! The journal's socket blocks when the journal is frozen, so it is spoken to from the log's thread alone:
//! each owned line is emitted once more there, into a subscriber that nothing else uses.

use tunneld_proto::message::LogLine;

#[cfg(target_os = "linux")]
pub(super) use linux::Journal;

/// No journal on this system.
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

    const TARGET: &str = "tunneld::journal";

    /// The journal.
    pub(in super::super) struct Journal(Dispatch);

    impl Journal {
        /// The journal, where `JOURNAL_STREAM` names the file behind stderr and the journal answers.
        pub(in super::super) fn open() -> Option<Self> {
            let stream = std::env::var("JOURNAL_STREAM").ok()?;
            let stderr = rustix::fs::fstat(std::io::stderr()).ok()?;
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
            // Without this filter every event of the daemon would be looked at twice.
            let only = Targets::new().with_target(TARGET, LevelFilter::TRACE);
            let subscriber = tracing_subscriber::registry().with(only).with(layer);
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
