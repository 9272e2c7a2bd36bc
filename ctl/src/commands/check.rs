//! `check`: proves the configuration without a daemon, by the daemon's own program.

use std::process::Command;

use crate::daemon::{Context, not_run, program};
use crate::exit::{Exit, FAILED};

/// Runs the command; its output and its exit code are `tunneld check`'s.
pub(crate) fn run(context: &Context) -> Result<(), Exit> {
    let program = program("tunneld")?;
    let mut command = Command::new(&program);
    command.arg("check");
    if context.ui.json {
        command.args(["--output", "json"]);
    }
    if let Some(dir) = &context.global.config_dir {
        command.arg("--config-dir").arg(context.env.absolute(dir)?);
    }
    let status = command.status().map_err(|err| not_run(&program, &err))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Exit::silent(u8::try_from(code).unwrap_or(FAILED))),
        None => Err(
            Exit::new(FAILED, format!("tunneld check was ended: {status}"))
                .hint("run it again: tunneld check"),
        ),
    }
}
