//! The `tunneld` program: parses the arguments, hardens the process, starts the runtime, runs the daemon or a
//! subcommand, and returns the exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tokio::runtime::Runtime;
use tunneld_platform::panic;

/// Keeps the SSH tunnels of its configuration connected. Runs in the foreground; tunnelctl controls it.
#[derive(Parser)]
#[command(name = "tunneld", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
    /// Path of the control socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Log filter: a level, or pairs such as info,tunneld=debug
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
    /// Configuration directory
    #[arg(long, value_name = "DIR", global = true)]
    config_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Check the configuration and exit
    Check(tunneld::check::CheckArguments),
    #[cfg(feature = "demo")]
    /// Demonstrate tunneld with an SSH server and a web page in a temporary home
    Demo(tunneld_demo::DemoArguments),
}

/// How long a thread for blocking work stays without work. Longer than the pauses between two readings of the configuration.
const BLOCKING_THREAD_KEEP_ALIVE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    panic::install_hook();
    let outcome = tunneld_platform::process::harden().and_then(|()| {
        let runtime = start_runtime().context(
            "cannot start: the system allows no further thread or descriptor; raise the limits: \
             ulimit -u and ulimit -n, or TasksMax= and LimitNOFILE= of the service",
        )?;
        let outcome = runtime.block_on(perform(arguments));
        // Does not wait for blocking threads: a name lookup that hangs must not keep the process alive.
        runtime.shutdown_background();
        outcome
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("tunneld: {error:#}");
        ExitCode::FAILURE
    })
}

/// Returns a runtime with its first thread for blocking work. Without it the first reading of a file could only panic.
fn start_runtime() -> std::io::Result<Runtime> {
    // tokio panics if it cannot create what it needs for signals.
    let runtime = panic::catch(|| {
        // One thread: handing a byte from one thread to another costs more than a second core gains.
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // While one thread for blocking work is left, work waits for it if no other can be created.
            .thread_keep_alive(BLOCKING_THREAD_KEEP_ALIVE)
            .build()
    })??;
    panic::catch(|| drop(runtime.spawn_blocking(|| ())))?;
    Ok(runtime)
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
            let options = tunneld::DaemonOptions {
                config_dir,
                socket: arguments.socket,
                log: arguments.log.or(verbose),
                log_file: arguments.log_file,
            };
            tunneld::run(options).await.map(|()| ExitCode::SUCCESS)
        }
    }
}
