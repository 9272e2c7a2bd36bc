//! tunnelctl controls tunneld over its control socket.
//!
//! `cli` defines the command line, `commands` has one file per subcommand, `daemon` connects to or starts tunneld,
//! `output` formats what is printed, `exit` maps errors to messages and exit codes.
#![forbid(unsafe_code)]

mod adhoc;
mod argv;
mod cli;
mod commands;
mod daemon;
mod exit;
mod ignored_flags;
mod import;
mod options;
mod output;
mod progress;
mod prompt;
mod select;
mod services;
mod signals;
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
    let cli = match Cli::try_parse_from(argv::normalize(std::env::args_os())) {
        Ok(cli) => cli,
        Err(err) => return print_usage(&without_wrong_suggestion(err)),
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

/// Replaces clap's suggestion for an unknown command, which goes by the letters: for `stop` it would be `shutdown`, which
/// stops every tunnel.
fn without_wrong_suggestion(err: clap::Error) -> clap::Error {
    use clap::CommandFactory as _;
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let Some(ContextValue::String(command)) = err.get(ContextKind::InvalidSubcommand) else {
        return err;
    };
    let message = |hint: &str| format!("unrecognized command '{command}'\n\n  tip: {hint}\n");
    let hint = match argv::suggestion(command) {
        Some(better) => format!("use: {better}"),
        None => match err.get(ContextKind::SuggestedSubcommand) {
            Some(ContextValue::Strings(suggested))
                if suggested.iter().any(|name| name == "shutdown")
                    && !command.starts_with("shut") =>
            {
                "list the commands: tunnelctl --help".to_owned()
            }
            _ => return err,
        },
    };
    Cli::command().error(ErrorKind::InvalidSubcommand, message(&hint))
}

/// Prints help and version on stdout, and usage errors on stderr with unsafe characters escaped.
fn print_usage(err: &clap::Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(FAILED));
    // clap repeats arguments in its messages; escaping all of its output would also escape its colours.
    let is_unsafe_text =
        std::env::args_os().any(|arg| arg.to_string_lossy().chars().any(is_unsafe));
    if is_unsafe_text {
        let text = escape_lines(&err.render().to_string());
        let _ = std::io::stderr().write_all(text.as_bytes());
    } else {
        // A closed pipe is not an error.
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
    // One thread is enough for one connection; prompts read the terminal in a blocking thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| {
            Exit::new(FAILED, "starting failed")
                .caused_by(&err)
                .hint("check the limits of processes and open files: ulimit -a")
        })?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = run(&context, &cli.command) => result,
            exit = signals::received() => Err(exit),
        }
    });
    // Without waiting: a thread may be blocked in a read of stdin.
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
        Command::Browse(browse) => commands::browse::run(context, browse).await,
        Command::Exec(exec) => commands::exec::run(context, exec).await,
        Command::Env(env) => commands::env::run(context, env).await,
        Command::Pac(pac) => commands::pac::run(context, pac).await,
        Command::Web(web) => commands::web::run(context, web).await,
        Command::Metrics(metrics) => commands::metrics::run(context, metrics).await,
        Command::Import(import) => commands::import::run(context, import),
        Command::Shutdown => commands::shutdown::run(context).await,
        Command::RunDetached { argv } => Err(daemon::run_detached(argv)),
    }
}

#[cfg(test)]
mod tests {
    pub(crate) mod sample;
}
