//! Handles the signals that would end the program while the echo of the terminal is off.
//!
//! No handler is installed before the first prompt: until then the signals end the program by default. tokio never
//! removes a handler, so after the first prompt [`received`] has to end the program instead.

use tokio::sync::Notify;

use crate::exit::Exit;

static ARMED: Notify = Notify::const_new();

/// Makes [`received`] install its handlers.
pub(crate) fn arm() {
    ARMED.notify_one();
}

/// Returns at the first signal after [`arm`]; never before.
pub(crate) async fn received() -> Exit {
    ARMED.notified().await;
    match ExitSignals::listen() {
        Ok(mut signals) => signals.next().await,
        Err(_) => std::future::pending().await,
    }
}

/// SIGTERM, SIGHUP and SIGQUIT; nothing on Windows.
pub(crate) struct ExitSignals {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 3],
}

#[cfg(unix)]
impl ExitSignals {
    pub(crate) fn listen() -> Result<Self, Exit> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|err| {
                Exit::new(crate::exit::FAILED, "installing the signal handlers failed")
                    .caused_by(&err)
                    .hint("check the limit of open files: ulimit -n")
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

    /// Waits for the next signal and returns the exit code that shells use for it, 128 + N.
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
impl ExitSignals {
    /// Does nothing: the console of other systems restores itself.
    pub(crate) fn listen() -> Result<Self, Exit> {
        Ok(Self {})
    }

    /// Never returns.
    pub(crate) async fn next(&mut self) -> Exit {
        std::future::pending().await
    }
}
