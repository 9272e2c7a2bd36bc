//! `tunneld check`: reads and checks the configuration as the daemon would, and prints every error.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use tunneld_proto::message::ConfigFault;

use crate::paths;
use crate::reload::ConfigReader;

/// Arguments of `tunneld check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArguments {
    /// Output format
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OutputFormat {
    Text,
    Json,
}

#[derive(Serialize)]
struct CheckReport<'a> {
    tunnels: usize,
    forwards: usize,
    errors: &'a [ConfigFault],
}

/// Checks the configuration in `config_dir`, or in the default directory. Returns exit code 0, or 2 if it has errors.
///
/// # Errors
/// An error if the configuration directory cannot be determined.
pub async fn run(
    config_dir: Option<&Path>,
    arguments: &CheckArguments,
) -> anyhow::Result<ExitCode> {
    if let Some(given) = config_dir
        && !given.is_dir()
    {
        // A default directory that does not exist counts as empty. One that the user named is probably misspelt.
        let name = tunneld_proto::text::escape(&given.display().to_string());
        let _ = writeln!(std::io::stderr(), "{name}: no such directory");
        return Ok(ExitCode::from(2));
    }
    let dir = paths::config_dir(config_dir)?;
    let mut reader = ConfigReader::new(dir, |loader| loader.dir_required(config_dir.is_some()));
    let loaded = reader.read_fully().await;
    let tunnels = loaded.tunnels.len();
    let forwards = loaded
        .tunnels
        .iter()
        .map(|tunnel| tunnel.forwards.len())
        .sum();
    let faults = &loaded.faults[..];
    let text = match arguments.output {
        OutputFormat::Json => {
            serde_json::to_string(&CheckReport {
                tunnels,
                forwards,
                errors: faults,
            })? + "\n"
        }
        OutputFormat::Text if faults.is_empty() => {
            format!(
                "{}, {}: ok\n",
                count(tunnels, "tunnel"),
                count(forwards, "forward")
            )
        }
        OutputFormat::Text => String::new(),
    };
    if arguments.output == OutputFormat::Text {
        let mut stderr = std::io::stderr().lock();
        for fault in faults {
            // A closed stderr is not an error: the exit code remains.
            let _ = writeln!(stderr, "{}", fault.rendered.trim_end());
        }
    }
    // Nor is a closed pipe (`tunneld check | head`).
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
