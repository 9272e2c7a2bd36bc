//! Runs tunnelctl and keeps what it said.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::home::Home;
use crate::process;
use crate::wait::within;

/// What one run said.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Talk.
    pub stderr: String,
}

impl Said {
    /// Proves the exit code.
    ///
    /// # Errors
    /// Where it is another; the message bears all that was said.
    pub fn expect(self, code: i32) -> Result<Self> {
        anyhow::ensure!(self.code == code, "expected exit {code}: {self:#?}");
        Ok(self)
    }

    /// Stdout as JSON.
    ///
    /// # Errors
    /// Where it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {self:#?}"))
    }
}

impl Home {
    /// Runs `tunnelctl ARGS` to its end, stdin empty.
    ///
    /// # Errors
    /// Where it is not built or does not end within a minute.
    pub async fn ctl(&self, args: &[&str]) -> Result<Said> {
        self.run("tunnelctl", args).await
    }

    /// Runs one of the project's programs to its end, stdin empty.
    ///
    /// # Errors
    /// Where it is not built or does not end within a minute.
    pub async fn run(&self, program: &str, args: &[&str]) -> Result<Said> {
        let mut command = self.command(program)?;
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        let what = format!("{program} {args:?} to end");
        let out = within(Duration::from_secs(60), &what, command.output()).await??;
        Ok(Said {
            code: process::code(out.status),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        })
    }
}
