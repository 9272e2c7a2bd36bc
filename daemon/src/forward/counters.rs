//! The counters of one forward: open and held connections, the total, and bytes both ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

/// The counters of one forward, as they appear in the status. Relaxed atomics: each is exact, but several read together
/// may belong to slightly different moments.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Open connections, held ones included.
    pub(super) connections: AtomicU64,
    /// Connections that wait for a session.
    pub(super) held: AtomicU64,
    /// Connections since the forward was added.
    pub(super) total: AtomicU64,
    /// Bytes from the SSH channel that were written to the local socket.
    pub(super) bytes_in: AtomicU64,
    /// Bytes from the local socket that were written to the SSH channel.
    pub(super) bytes_out: AtomicU64,
}

impl Counters {
    pub(super) fn add_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn add_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }
}

/// RAII guard that increments a gauge and decrements it on drop. Notifies `changed` when the gauge reaches zero.
pub(super) struct CountGuard {
    counters: Arc<Counters>,
    gauge: fn(&Counters) -> &AtomicU64,
    changed: Arc<Notify>,
}

impl CountGuard {
    pub(super) fn new(
        counters: &Arc<Counters>,
        gauge: fn(&Counters) -> &AtomicU64,
        changed: &Arc<Notify>,
    ) -> Self {
        gauge(counters).fetch_add(1, Relaxed);
        Self::counted(counters, gauge, changed)
    }

    /// Returns the guard of a gauge that the caller has incremented already.
    pub(super) fn counted(
        counters: &Arc<Counters>,
        gauge: fn(&Counters) -> &AtomicU64,
        changed: &Arc<Notify>,
    ) -> Self {
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
