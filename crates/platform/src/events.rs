//! System events that tunnels react to: an address was added or removed, the system resumed from sleep.
//!
//! Address changes come from the operating system (netlink and its equivalents). No portable event reports a
//! resume, so it is detected by a gap between two ticks of a clock that also runs during sleep.

use std::time::Duration;

use netwatcher::async_adapter::Tokio;
use tokio::time::{MissedTickBehavior, interval};

/// Interval at which the clock is read.
const TICK: Duration = Duration::from_secs(1);
/// Shortest gap between two ticks that counts as sleep. A process stopped by SIGSTOP looks the same, and its sessions
/// need the same check.
const SLEEP_GAP: Duration = Duration::from_secs(4);

/// Source of [`SystemEvent`]s.
pub struct SystemEvents {
    /// `None` if the operating system refused the watch.
    network: Option<netwatcher::AsyncWatch>,
    ticks: tokio::time::Interval,
    /// [`clock`] at the last tick.
    last_tick: Duration,
}

/// A change of the system that may have broken connections or made new ones possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemEvent {
    /// A network address was added or removed.
    Network,
    /// The system resumed from sleep; the value is the length of the sleep.
    Woke(Duration),
}

impl SystemEvents {
    /// Starts to watch addresses and the clock. If addresses cannot be watched, that is logged, and broken connections
    /// are found by keepalives alone.
    pub fn watch() -> Self {
        let network = netwatcher::watch_interfaces_async::<Tokio>()
            .inspect_err(|error| tracing::warn!("cannot watch the network addresses: {error:?}"))
            .ok();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            network,
            ticks,
            last_tick: clock(),
        }
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> SystemEvent {
        loop {
            tokio::select! {
                () = address_changed(&mut self.network) => return SystemEvent::Network,
                _ = self.ticks.tick() => {
                    let now = clock();
                    let gap = now.saturating_sub(self.last_tick);
                    self.last_tick = now;
                    if gap > SLEEP_GAP {
                        return SystemEvent::Woke(gap);
                    }
                }
            }
        }
    }
}

async fn address_changed(network: &mut Option<netwatcher::AsyncWatch>) {
    let Some(watch) = network else {
        return std::future::pending().await;
    };
    loop {
        let update = watch.changed().await;
        // The first update lists the addresses that were there already. Later ones may concern an interface alone.
        if !update.is_initial
            && (update.addrs_added().next().is_some() || update.addrs_removed().next().is_some())
        {
            return;
        }
    }
}

/// Returns a clock that also runs while the system sleeps and that is never set, unlike the wall clock.
fn clock() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(now).unwrap_or_default()
    }
    #[cfg(target_os = "macos")]
    {
        // Unlike Linux, macOS counts sleep in CLOCK_MONOTONIC.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::try_from(now).unwrap_or_default()
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
    {
        // The performance counter includes sleep on Windows. Elsewhere only address changes are noticed.
        use std::sync::OnceLock;
        use tokio::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}
