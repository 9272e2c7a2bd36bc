//! Handles the signals that would end the program while the echo of the terminal is off.
//!
//! No handler is installed before the first prompt: until then the signals end the program by default. tokio never
//! removes a handler, so after the first prompt [`received`] has to end the program instead.

#[cfg(unix)]
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::exit::Exit;

static ARMED: Notify = Notify::const_new();

/// Makes [`received`] install its handlers.
pub(crate) fn arm() {
    ARMED.notify_one();
}

/// Whether the signals belong to a program that this one runs, see [`take_over`].
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Returns at the first signal after [`arm`]; never before, and never after [`take_over`].
pub(crate) async fn received() -> Exit {
    ARMED.notified().await;
    let Ok(mut signals) = ExitSignals::listen() else {
        return std::future::pending().await;
    };
    loop {
        let exit = signals.next().await;
        if !TAKEN_OVER.load(Ordering::Relaxed) {
            return exit;
        }
    }
}

/// Receives the signals from now on, to pass them on to the program that this one waits for.
///
/// # Errors
/// The handlers cannot be installed.
pub(crate) fn take_over() -> Result<PassedOn, Exit> {
    let passed_on = PassedOn::listen()?;
    TAKEN_OVER.store(true, Ordering::Relaxed);
    Ok(passed_on)
}

/// The signals for the program that this one runs. On Windows there are none: the console sends Ctrl-C to both.
pub(crate) struct PassedOn {
    signals: ExitSignals,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl PassedOn {
    fn listen() -> Result<Self, Exit> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            signals: ExitSignals::listen()?,
            interrupt: signal(SignalKind::interrupt()).map_err(|err| not_installed(&err))?,
        })
    }

    /// Waits for the next signal and returns its number.
    pub(crate) async fn next(&mut self) -> u8 {
        loop {
            let number = tokio::select! {
                exit = self.signals.next() => exit.code - 128,
                _ = self.interrupt.recv() => 2,
            };
            // A key on the terminal reaches every program in the foreground, so the other one has the signal already.
            let from_terminal = matches!(number, 2 | 3) && std::io::stdin().is_terminal();
            if !from_terminal {
                return number;
            }
        }
    }
}

#[cfg(not(unix))]
impl PassedOn {
    fn listen() -> Result<Self, Exit> {
        Ok(Self {
            signals: ExitSignals::listen()?,
        })
    }

    /// Never returns.
    pub(crate) async fn next(&mut self) -> u8 {
        self.signals.next().await.code
    }
}

/// Sends a signal to a program; nothing if it has ended, and nothing on Windows.
pub(crate) fn send(child: &tokio::process::Child, number: u8) {
    #[cfg(unix)]
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
        && let Some(pid) = rustix::process::Pid::from_raw(pid)
        && let Some(signal) = rustix::process::Signal::from_named_raw(number.into())
    {
        let _ = rustix::process::kill_process(pid, signal);
    }
    #[cfg(not(unix))]
    let _ = (child, number);
}

#[cfg(unix)]
fn not_installed(err: &std::io::Error) -> Exit {
    Exit::new(crate::exit::FAILED, "installing the signal handlers failed")
        .caused_by(err)
        .hint("check the limit of open files: ulimit -n")
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
        let listen = |kind| signal(kind).map_err(|err| not_installed(&err));
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
