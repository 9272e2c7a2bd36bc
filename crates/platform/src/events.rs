//! What happens to the machine: an address came or went, the clock says that we slept.

use std::time::Duration;

use netwatcher::async_adapter::Tokio;
use tokio::time::{MissedTickBehavior, interval};

/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(1);
/// A gap between two looks that is longer than this was a sleep, or a stop of the whole process.
const GAP: Duration = Duration::from_secs(4);

/// Waits for the machine's events.
pub struct SystemEvents {
    network: Option<netwatcher::AsyncWatch>,
    ticks: tokio::time::Interval,
    last: Duration,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemEvent {
    /// An address came or went.
    Network,
    /// The machine slept for so long.
    Woke(Duration),
}

impl SystemEvents {
    /// Starts to watch. Without a watch for the network, the clock and the keepalives must do.
    pub fn watch() -> Self {
        let network = netwatcher::watch_interfaces_async::<Tokio>()
            .inspect_err(|error| tracing::warn!("cannot watch the network's addresses: {error:?}"))
            .ok();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            network,
            ticks,
            last: clock(),
        }
    }

    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> SystemEvent {
        loop {
            tokio::select! {
                () = changed(&mut self.network) => return SystemEvent::Network,
                _ = self.ticks.tick() => {
                    let now = clock();
                    let gap = now.saturating_sub(self.last);
                    self.last = now;
                    if gap > GAP {
                        return SystemEvent::Woke(gap);
                    }
                }
            }
        }
    }
}

async fn changed(network: &mut Option<netwatcher::AsyncWatch>) {
    let Some(watch) = network else {
        return std::future::pending().await;
    };
    loop {
        let update = watch.changed().await;
        if !update.is_initial
            && (update.addrs_added().next().is_some() || update.addrs_removed().next().is_some())
        {
            return;
        }
    }
}

/// A clock that goes on while the machine sleeps, and that nobody sets.
fn clock() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(now).unwrap_or_default()
    }
    #[cfg(target_os = "macos")]
    {
        // Here the monotonic clock counts sleep.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::try_from(now).unwrap_or_default()
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
    {
        // The performance counter counts sleep on Windows; elsewhere the network's events must do.
        use std::sync::OnceLock;
        use tokio::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}
