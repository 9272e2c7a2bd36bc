//! The signals that end this program while the terminal's echo may be off.
//!
//! Nobody listens before the first prompt: until then they end the program by themselves. Once somebody has, they
//! do so no more, and [`ended`] does it in their place.

use tokio::sync::Notify;

use crate::exit::Exit;

static ARMED: Notify = Notify::const_new();

/// Has [`ended`] listen from now on.
pub(crate) fn arm() {
    ARMED.notify_one();
}

/// Ends with the first of the signals that comes after [`arm`].
pub(crate) async fn ended() -> Exit {
    ARMED.notified().await;
    match Ends::listen() {
        Ok(mut ends) => ends.next().await,
        Err(_) => std::future::pending().await,
    }
}

/// The signals.
pub(crate) struct Ends {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 3],
}

#[cfg(unix)]
impl Ends {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self, Exit> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|err| {
                Exit::new(crate::exit::FAILED, "listening for signals failed")
                    .caused_by(&err)
                    .hint("see that the system has file descriptors to spare")
            })
        };
        Ok(Self {
            signals: [
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
                listen(SignalKind::quit())?,
            ],
        })
    }

    /// The end that the next signal is, with the exit code that shells give it.
    pub(crate) async fn next(&mut self) -> Exit {
        let [terminate, hangup, quit] = &mut self.signals;
        let number = tokio::select! {
            _ = terminate.recv() => 15,
            _ = hangup.recv() => 1,
            _ = quit.recv() => 3,
        };
        Exit::silent(128 + number)
    }
}

#[cfg(not(unix))]
impl Ends {
    /// There are none here: the console resets itself.
    pub(crate) fn listen() -> Result<Self, Exit> {
        Ok(Self {})
    }

    /// Never.
    pub(crate) async fn next(&mut self) -> Exit {
        std::future::pending().await
    }
}
