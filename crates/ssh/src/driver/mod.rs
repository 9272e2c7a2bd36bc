//! A session on tokio: one task that owns the socket, and handles that share its state.
//!
//! Reading never waits for writing, nor for whoever consumes; what is buffered is bounded by 256 KiB to
//! write (twice, while a batch is under way) and one window a channel to read.

mod channel;
#[cfg(test)]
mod far;
mod handshake;
mod io;
mod prove;
mod session;
mod signer;
mod state;
mod task;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_pace;
mod wake;

use std::time::Duration;

pub use channel::{Channel, ChannelReader, ChannelWriter, Incoming, PendingChannel};
pub use handshake::{Connected, LoginError, handshake};
pub use io::{Io, Stream};
pub use session::{ForwardError, OpenError, Session, SessionInfo};
pub use signer::{KeySigner, NotSigned, Signer, Signing};

use crate::connection::Settings;
pub use crate::transport::{HostKey, HostKeyOffer};

/// Longer than any session: what the clocks can still add to.
const EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How a session is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Channels and windows.
    pub connection: Settings,
    /// ServerAliveInterval and ServerAliveCountMax: a server that says nothing for their product is dead.
    /// None for never.
    pub alive: Option<(Duration, u32)>,
    /// How long the server may take up to its host key, and from there to the first keys.
    pub handshake: Duration,
    /// How long it may take for each answer of the login.
    pub login: Duration,
    /// How long it may take to open a channel.
    pub open: Duration,
    /// How long it may take to answer a request.
    pub request: Duration,
    /// As many channels of forwards wait to be taken; more are refused.
    pub incoming: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connection: Settings::default(),
            alive: Some((Duration::from_secs(15), 3)),
            handshake: Duration::from_secs(30),
            login: Duration::from_secs(30),
            open: Duration::from_secs(10),
            request: Duration::from_secs(10),
            incoming: 128,
        }
    }
}

impl Options {
    /// After so long without a byte the server is dead.
    fn dead_after(&self) -> Option<Duration> {
        self.alive
            .filter(|(interval, _)| !interval.is_zero())
            .map(|(interval, count)| interval.saturating_mul(count.max(1)).min(EVER))
    }

    /// A sign of life is asked for this often: at least twice before the end.
    fn period(&self) -> Option<Duration> {
        let dead_after = self.dead_after()?;
        let (interval, _) = self.alive?;
        Some(interval.min(dead_after / 2))
    }
}
