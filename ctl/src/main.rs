//! tunnelctl: commands tunneld over its control socket.
//!
//! `cli` reads the command line, `commands` carry it out, `output` paints, `exit` says how it ended.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod daemon;
mod exit;
mod options;
mod output;
mod progress;
mod prompt;
mod select;
mod signals;
mod silent;
mod spot;
mod time;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use tunneld_proto::paths::Env;
use tunneld_proto::text::{escape_lines, is_unsafe};

use cli::{Cli, Command};
use daemon::Context;
use exit::{Exit, FAILED};
use output::Ui;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => return refuse(&err),
    };
    let ui = Ui::new(&cli.global);
    match execute(cli, &ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            ui.exit(&exit);
            exit.code.into()
        }
    }
}

/// Help and version on stdout; wrong usage on stderr, the wrong words escaped.
fn refuse(err: &clap::Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(FAILED));
    let foul = std::env::args_os().any(|arg| arg.to_string_lossy().chars().any(is_unsafe));
    if foul {
        let text = escape_lines(&err.render().to_string());
        let _ = std::io::stderr().write_all(text.as_bytes());
    } else {
        // A closed pipe has read enough.
        let _ = err.print();
    }
    code
}

fn execute(cli: Cli, ui: &Ui) -> Result<(), Exit> {
    if let Command::RunDetached { argv } = &cli.command {
        return Err(daemon::run_detached(argv));
    }
    let context = Context {
        global: cli.global,
        env: Env::from_process(),
        ui: ui.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| {
            Exit::new(FAILED, "starting failed")
                .caused_by(&err)
                .hint("see that the system has threads and file descriptors to spare")
        })?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = run(&context, &cli.command) => result,
            exit = signals::ended() => Err(exit),
        }
    });
    // A thread may still be reading a stdin that never ends.
    runtime.shutdown_background();
    result
}

async fn run(context: &Context, command: &Command) -> Result<(), Exit> {
    match command {
        Command::Up(up) => commands::up::run(context, up).await,
        Command::Down(down) => commands::down::run(context, down).await,
        Command::Restart(restart) => commands::restart::run(context, restart).await,
        Command::Status(status) => commands::status::run(context, status).await,
        Command::Logs(logs) => commands::logs::run(context, logs).await,
        Command::Events => commands::events::run(context).await,
        Command::Answer(answer) => commands::answer::run(context, answer).await,
        Command::Check => commands::check::run(context),
        Command::Reload => commands::reload::run(context).await,
        Command::Connect(connect) => commands::connect::run(context, connect).await,
        Command::Shutdown => commands::shutdown::run(context).await,
        Command::RunDetached { argv } => Err(daemon::run_detached(argv)),
    }
}
