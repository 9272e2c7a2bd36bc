//! The service manager: what it is told, and how often it wants to hear that we live.

use std::time::Duration;

/// What the service manager is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState<'a> {
    /// Sockets are bound.
    Ready,
    /// The configuration is being read again; `Ready` ends it.
    Reloading,
    /// One line for `systemctl status`.
    Status(&'a str),
    /// We live.
    Alive,
    /// We stop.
    Stopping,
}

/// Tells the service manager; no manager, or one that does not listen, is no fault.
pub fn notify_manager(notice: &ServiceState<'_>) {
    #[cfg(target_os = "linux")]
    {
        use sd_notify::{NotifyState, notify};
        let told = match notice {
            ServiceState::Ready => notify(&[NotifyState::Ready]),
            ServiceState::Reloading => NotifyState::monotonic_usec_now()
                .and_then(|now| notify(&[NotifyState::Reloading, now])),
            ServiceState::Status(text) => notify(&[NotifyState::Status(text)]),
            ServiceState::Alive => notify(&[NotifyState::Watchdog]),
            ServiceState::Stopping => notify(&[NotifyState::Stopping]),
        };
        if let (Err(error), ServiceState::Ready) = (told, notice) {
            tracing::warn!(
                "cannot notify_manager the service manager (NOTIFY_SOCKET) that the daemon is ready: {error}"
            );
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = notice;
}

/// How often the manager wants to hear [`ServiceState::Alive`]: half of what it waits.
pub fn watchdog() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    return sd_notify::watchdog_enabled().map(|limit| limit / 2);
    #[cfg(not(target_os = "linux"))]
    None
}
