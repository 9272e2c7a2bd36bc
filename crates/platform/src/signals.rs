//! Signals: the first SIGTERM or SIGINT requests an orderly stop, a second one ends the process at once, SIGHUP
//! requests a reload. Windows: Ctrl-C and Ctrl-Break request a stop.

use std::io;

/// Request that a signal makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop in order: SIGTERM or SIGINT.
    Stop,
    /// Read the configuration again: SIGHUP.
    Reload,
}

/// Stream of the signals that arrive.
pub struct Signals(imp::Signals);

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The operating system's error if a handler cannot be installed.
    pub fn install() -> io::Result<Self> {
        imp::Signals::install().map(Self)
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    /// No signal is lost if the future is dropped.
    pub async fn next(&mut self) -> Signal {
        self.0.next().await
    }
}

#[cfg(unix)]
mod imp {
    use super::{Signal, io};
    use futures_util::StreamExt as _;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// Exit code after a second stop signal: 128 + SIGINT, as shells report it.
    const SECOND_SIGNAL_EXIT_CODE: i32 = 130;

    pub(super) struct Signals(signal_hook_tokio::Signals);

    impl Signals {
        pub(super) fn install() -> io::Result<Self> {
            let stop_requested = Arc::new(AtomicBool::new(false));
            for signal in [SIGTERM, SIGINT] {
                // Handlers run in the order of registration: the first signal finds the flag unset and sets it, the
                // second finds it set and exits. Both happen in the signal handler, so that a runtime that hangs can
                // be ended too.
                flag::register_conditional_shutdown(
                    signal,
                    SECOND_SIGNAL_EXIT_CODE,
                    stop_requested.clone(),
                )?;
                flag::register(signal, stop_requested.clone())?;
            }
            signal_hook_tokio::Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Self)
        }

        pub(super) async fn next(&mut self) -> Signal {
            match self.0.next().await {
                Some(SIGHUP) => Signal::Reload,
                Some(_) => Signal::Stop,
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use super::{Signal, io};
    use tokio::signal::windows::{CtrlBreak, CtrlC, ctrl_break, ctrl_c};

    pub(super) struct Signals(CtrlC, CtrlBreak);

    impl Signals {
        pub(super) fn install() -> io::Result<Self> {
            Ok(Self(ctrl_c()?, ctrl_break()?))
        }

        pub(super) async fn next(&mut self) -> Signal {
            tokio::select! {
                _ = self.0.recv() => Signal::Stop,
                _ = self.1.recv() => Signal::Stop,
            }
        }
    }
}
