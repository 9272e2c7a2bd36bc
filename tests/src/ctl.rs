//! Runs the project's programs to their end and keeps their exit code and output.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::home::Home;
use crate::process;
use crate::wait::within;

/// Far above the longest limit of a command, so that only a command that hangs reaches it.
const LIMIT: Duration = Duration::from_secs(60);

/// The result of one run.
#[derive(Debug)]
pub struct ProgramOutput {
    /// The exit code, or 128 + the number of the signal that ended the program.
    pub exit_code: i32,
    /// Everything on stdout; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Everything on stderr; bytes that are not UTF-8 are replaced.
    pub stderr: String,
}

impl ProgramOutput {
    /// Checks the exit code.
    ///
    /// # Errors
    /// If the exit code is not `code`; the message contains the whole output.
    pub fn expect_exit(self, code: i32) -> Result<Self> {
        anyhow::ensure!(self.exit_code == code, "expected exit {code}: {self:#?}");
        Ok(self)
    }

    /// Parses stdout as JSON.
    ///
    /// # Errors
    /// If stdout is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {self:#?}"))
    }
}

impl Home {
    /// Runs `tunnelctl ARGS` to its end, with an empty stdin.
    ///
    /// # Errors
    /// If it is not built or runs longer than a minute.
    pub async fn ctl(&self, args: &[&str]) -> Result<ProgramOutput> {
        self.run("tunnelctl", args).await
    }

    /// Runs one of the project's programs to its end, with an empty stdin.
    ///
    /// # Errors
    /// If it is not built or runs longer than a minute.
    pub async fn run(&self, program: &str, args: &[&str]) -> Result<ProgramOutput> {
        let mut command = self.command(program)?;
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        let what = format!("{program} {args:?} to end");
        let output = within(LIMIT, &what, command.output()).await??;
        Ok(ProgramOutput {
            exit_code: process::exit_code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
