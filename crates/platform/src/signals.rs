//! Signals: TERM and INT stop in order, a second one ends at once, HUP reloads.

use std::io;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop in order.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// The signals as they come.
pub struct Signals(imp::Signals);

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// The system's own.
    pub fn take() -> io::Result<Self> {
        imp::Signals::take().map(Self)
    }

    /// The next one. Cancel-safe.
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

    /// The exit code of a stop that was cut short.
    const HURRIED: i32 = 130;

    pub(super) struct Signals(signal_hook_tokio::Signals);

    impl Signals {
        pub(super) fn take() -> io::Result<Self> {
            let stopping = Arc::new(AtomicBool::new(false));
            for signal in [SIGTERM, SIGINT] {
                // In this order: the first signal finds the flag down and raises it. It works in the handler
                // itself, so that even a runtime that hangs can be ended.
                flag::register_conditional_shutdown(signal, HURRIED, stopping.clone())?;
                flag::register(signal, stopping.clone())?;
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
        pub(super) fn take() -> io::Result<Self> {
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
