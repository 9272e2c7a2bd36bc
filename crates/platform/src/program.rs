//! The interface between code that needs a program's output and the runtime that runs it. The interface itself
//! knows no runtime, so that crates without tokio can use it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitStatus;
use std::time::Duration;

/// What a program has printed until it ended.
#[derive(Debug, Clone)]
pub struct ProgramOutput {
    /// How the program ended.
    pub status: ExitStatus,
    /// Its standard output, at most [`Limits::stdout`] bytes.
    pub stdout: Vec<u8>,
    /// The first 8 KiB of its standard error.
    pub stderr: Vec<u8>,
}

/// Bounds of one run.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the program may run. Its whole process group is killed afterwards.
    pub time: Duration,
    /// How many bytes of standard output are read.
    pub stdout: u64,
}

/// Why a program has no output.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The program could not be started, or its output could not be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The program did not end within [`Limits::time`].
    #[error("did not end in time")]
    TimedOut,
}

/// A future that runs a program, without the name of a runtime.
pub type ProgramFuture<'a> =
    Pin<Box<dyn Future<Output = Result<ProgramOutput, ProgramError>> + Send + 'a>>;

/// Runs programs to their end, in a process group of their own and with standard input closed.
pub trait RunProgram: fmt::Debug + Send + Sync {
    /// Runs `program` with `arguments`. Dropping the future kills the process group.
    fn run<'a>(
        &'a self,
        program: &'a Path,
        arguments: &'a [OsString],
        limits: Limits,
    ) -> ProgramFuture<'a>;
}
