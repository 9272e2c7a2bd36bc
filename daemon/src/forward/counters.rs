//! How much one forward carries, and has carried.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

/// The figures of one forward.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) held: AtomicU64,
    pub(super) total: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
}

impl Counters {
    /// Counts bytes from the SSH side to the near one.
    pub(super) fn add_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts bytes to the SSH side.
    pub(super) fn add_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }
}

/// One more in a gauge, while it lives. The last one to go tells.
pub(super) struct CountGuard {
    counters: Arc<Counters>,
    gauge: fn(&Counters) -> &AtomicU64,
    changed: Arc<Notify>,
}

impl CountGuard {
    /// Counts one.
    pub(super) fn new(
        counters: &Arc<Counters>,
        gauge: fn(&Counters) -> &AtomicU64,
        changed: &Arc<Notify>,
    ) -> Self {
        gauge(counters).fetch_add(1, Relaxed);
        Self {
            counters: Arc::clone(counters),
            gauge,
            changed: Arc::clone(changed),
        }
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        if (self.gauge)(&self.counters).fetch_sub(1, Relaxed) == 1 {
            self.changed.notify_one();
        }
    }
}
