//! `tunneld check`: reads and proves the configuration as the daemon would, and tells every fault.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tunneld_platform::subprocess::TokioPrograms;
use tunneld_proto::message::ConfigFault;

use crate::reload::load;
use tunneld_config::env::Env;
use tunneld_config::load::Loader;

/// What `check` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// How the faults are told
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Serialize)]
struct Report<'a> {
    tunnels: usize,
    forwards: usize,
    errors: &'a [ConfigFault],
}

/// Checks the configuration: exit code 0, or 2 where something is wrong.
///
/// # Errors
/// Where no configuration directory can be told.
pub async fn run(config_dir: Option<&Path>, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(given) = config_dir
        && !given.is_dir()
    {
        // Without a word from the user an absent directory is an empty one; one that was named is a slip.
        let name = tunneld_proto::text::escape(&given.display().to_string());
        let _ = writeln!(std::io::stderr(), "{name}: there is no such directory");
        return Ok(ExitCode::from(2));
    }
    let dir = crate::config_dir(config_dir)?;
    let loader = Loader::new(dir, Env::from_process(), Arc::new(TokioPrograms));
    let loaded = load(&mut loader.dir_required(config_dir.is_some())).await;
    let tunnels = loaded.tunnels.len();
    let forwards = loaded
        .tunnels
        .iter()
        .map(|tunnel| tunnel.forwards.len())
        .sum();
    let faults = &loaded.faults[..];
    let text = match arguments.output {
        Output::Json => {
            serde_json::to_string(&Report {
                tunnels,
                forwards,
                errors: faults,
            })? + "\n"
        }
        Output::Text if faults.is_empty() => {
            format!(
                "{}, {}: ok\n",
                count(tunnels, "tunnel"),
                count(forwards, "forward")
            )
        }
        Output::Text => String::new(),
    };
    if arguments.output == Output::Text {
        let mut stderr = std::io::stderr().lock();
        for fault in faults {
            // Who closes stderr has seen enough.
            let _ = writeln!(stderr, "{}", fault.rendered.trim_end());
        }
    }
    // A closed pipe is no error.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    })
}

fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
