//! `tunnelctl check`: checks the configuration without a daemon, by running `tunneld check`.

use std::process::Command;

use crate::daemon::{Context, find_program, not_started};
use crate::exit::{Exit, FAILED};

/// Runs `tunneld check`; output and exit code are its own.
pub(crate) fn run(context: &Context) -> Result<(), Exit> {
    let program = find_program("tunneld")?;
    let mut command = Command::new(&program);
    command.arg("check");
    if context.ui.json {
        command.args(["--output", "json"]);
    }
    if let Some(dir) = &context.global.config_dir {
        command.arg("--config-dir").arg(context.env.absolute(dir)?);
    }
    let status = command
        .status()
        .map_err(|err| not_started(&program, &err))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Exit::silent(u8::try_from(code).unwrap_or(FAILED))),
        // Ended by a signal.
        None => Err(Exit::new(FAILED, format!("tunneld check ended: {status}"))
            .hint("run it again: tunneld check")),
    }
}
