//! Notifications to the service manager: sd_notify(3) on Linux, nothing on other systems.

use std::time::Duration;

/// State that the daemon reports to the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState<'a> {
    /// `READY=1`: the sockets are bound.
    Ready,
    /// `RELOADING=1`: the configuration is being read again, until the next [`ServiceState::Ready`].
    Reloading,
    /// `STATUS=`: one line for `systemctl status`.
    Status(&'a str),
    /// `WATCHDOG=1`: the daemon still responds.
    Alive,
    /// `STOPPING=1`: the daemon shuts down.
    Stopping,
}

/// Sends `state` to the service manager. Does nothing if the daemon was not started by one.
pub fn notify_manager(state: &ServiceState<'_>) {
    #[cfg(target_os = "linux")]
    {
        use sd_notify::{NotifyState, notify};
        let sent = match state {
            ServiceState::Ready => notify(&[NotifyState::Ready]),
            // Type=notify-reload requires the time at which the reload began (sd_notify(3), MONOTONIC_USEC).
            ServiceState::Reloading => NotifyState::monotonic_usec_now()
                .and_then(|now| notify(&[NotifyState::Reloading, now])),
            ServiceState::Status(text) => notify(&[NotifyState::Status(text)]),
            ServiceState::Alive => notify(&[NotifyState::Watchdog]),
            ServiceState::Stopping => notify(&[NotifyState::Stopping]),
        };
        // Only a lost READY has a consequence that the user must understand: systemd ends the start by a timeout.
        if let (Err(error), ServiceState::Ready) = (sent, state) {
            tracing::warn!(
                "cannot notify the service manager (NOTIFY_SOCKET) that the daemon is ready: {error}"
            );
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = state;
}

/// Returns the interval at which to send [`ServiceState::Alive`]: half of `WATCHDOG_USEC`, as sd_watchdog_enabled(3)
/// recommends. `None` if the service manager runs no watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    return sd_notify::watchdog_enabled().map(|limit| limit / 2);
    #[cfg(not(target_os = "linux"))]
    None
}
