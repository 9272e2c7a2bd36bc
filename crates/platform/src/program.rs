//! Interface between code that needs a program's output and the runtime that runs the program. It names no runtime,
//! so that crates without tokio can use it; [`crate::subprocess`] implements it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitStatus;
use std::time::Duration;

/// Result of a program that has ended.
#[derive(Debug, Clone)]
pub struct ProgramOutput {
    /// Exit code, or the signal that ended the program.
    pub status: ExitStatus,
    /// Standard output, at most [`Limits::stdout`] bytes.
    pub stdout: Vec<u8>,
    /// The first 8 KiB of standard error.
    pub stderr: Vec<u8>,
}

/// Bounds of one run.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest run. When it has passed, the program's whole process group is killed.
    pub time: Duration,
    /// Bytes of standard output that are read.
    pub stdout: u64,
}

/// Reason why a program has no output.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The program could not be started, or its output could not be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The program did not end within [`Limits::time`].
    #[error("did not end in time")]
    TimedOut,
    /// The program still runs, and the caller is not to wait for it.
    #[error("has not ended yet")]
    NotYet,
}

/// Future that runs a program; boxed, so that [`RunProgram`] can be used as a trait object.
pub type ProgramFuture<'a> =
    Pin<Box<dyn Future<Output = Result<ProgramOutput, ProgramError>> + Send + 'a>>;

/// Runs programs until they end, each in its own process group and with an empty standard input.
pub trait RunProgram: fmt::Debug + Send + Sync {
    /// Runs `program` with `arguments`. Dropping the future kills the process group.
    fn run<'a>(
        &'a self,
        program: &'a Path,
        arguments: &'a [OsString],
        limits: Limits,
    ) -> ProgramFuture<'a>;
}
