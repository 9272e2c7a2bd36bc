//! Timeouts and limits of one session. What it offers in the key exchange is in [`crate::Config`].

use std::time::Duration;

use crate::connection::ConnectionConfig;

/// Cap on configured durations: adding ten years to any clock reading does not overflow.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Timeouts and limits of one session.
#[derive(Debug, Clone)]
pub struct Options {
    /// Limits of channels, packets and receive windows.
    pub connection: ConnectionConfig,
    /// ServerAliveInterval and ServerAliveCountMax: the session ends with [`Error::DeadPeer`](crate::Error::DeadPeer)
    /// after their product without a byte from the server. `None`, or an interval of zero, never ends it.
    pub keepalive: Option<(Duration, u32)>,
    /// Time limit for each half of the handshake: up to the host key, and from its acceptance to the first keys.
    pub handshake_timeout: Duration,
    /// Time limit for each answer of the server during authentication.
    pub auth_timeout: Duration,
    /// Time limit for opening a channel.
    pub open_timeout: Duration,
    /// Time limit for the answer to a global request.
    pub request_timeout: Duration,
    /// Channels of remote forwards that may wait in [`IncomingChannels`](super::IncomingChannels); further ones are
    /// refused.
    pub max_incoming: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connection: ConnectionConfig::default(),
            // OpenSSH has keepalive off by default, and does not notice a frozen server then.
            keepalive: Some((Duration::from_secs(15), 3)),
            handshake_timeout: Duration::from_secs(30),
            auth_timeout: Duration::from_secs(30),
            open_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            max_incoming: 128,
        }
    }
}

impl Options {
    /// Time without a byte after which the server counts as dead. `None` if keepalive is off.
    pub(super) fn dead_after(&self) -> Option<Duration> {
        self.keepalive
            .filter(|(interval, _)| !interval.is_zero())
            .map(|(interval, count)| interval.saturating_mul(count.max(1)).min(MAX_DURATION))
    }

    /// Time between two keepalive requests. `None` if keepalive is off.
    pub(super) fn ping_interval(&self) -> Option<Duration> {
        let dead_after = self.dead_after()?;
        let (interval, _) = self.keepalive?;
        // With a count of 1 the interval equals the deadline: ping at least twice before it, so that a live server
        // has time to answer.
        Some(interval.min(dead_after / 2))
    }
}
