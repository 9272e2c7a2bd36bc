//! The `tunneld` program: arguments, the process's own safety, a runtime, the daemon, an exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Keeps SSH tunnels up for ever, as its configuration says. Runs in the foreground; tunnelctl commands it.
#[derive(Parser)]
#[command(name = "tunneld", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
    /// The control socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// What is logged: a level, or pairs such as info,tunneld=debug
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Log to this file instead of the journal or stderr
    #[arg(long, value_name = "PATH")]
    log_file: Option<PathBuf>,
    /// Log more: -v for debug, -vv for trace
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "log")]
    verbose: u8,
}

#[derive(Args)]
struct Common {
    /// The configuration directory
    #[arg(long, value_name = "DIR", global = true)]
    config_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Prove the configuration and end
    Check(tunneld::check::Arguments),
    #[cfg(feature = "demo")]
    /// Show it at work: an SSH server, a page behind it and tunneld, all in a temporary home
    Demo(tunneld_demo::DemoArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tunneld_platform::process::harden().and_then(|()| {
        // One thread: a byte that changes threads on its way costs more than a second core gives.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let ended = runtime.block_on(perform(arguments));
        // A lookup that hangs in a thread of its own does not keep the process.
        runtime.shutdown_background();
        ended
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("tunneld: {error:#}");
        ExitCode::FAILURE
    })
}

async fn perform(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config_dir = arguments.common.config_dir;
    match arguments.command {
        Some(Command::Check(check)) => tunneld::check::run(config_dir.as_deref(), &check).await,
        #[cfg(feature = "demo")]
        Some(Command::Demo(demo)) => tunneld_demo::run(&demo).await,
        None => {
            let verbose = match arguments.verbose {
                0 => None,
                1 => Some("debug".to_owned()),
                _ => Some("trace".to_owned()),
            };
            let options = tunneld::Options {
                config_dir,
                socket: arguments.socket,
                log: arguments.log.or(verbose),
                log_file: arguments.log_file,
            };
            tunneld::run(options).await.map(|()| ExitCode::SUCCESS)
        }
    }
}
