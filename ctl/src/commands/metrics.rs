//! `tunnelctl metrics`: prints the metrics of the daemon, or writes them to a file.

use std::io::Write as _;

use tunneld_proto::message::{self, method};

use crate::cli::Metrics;
use crate::daemon::Context;
use crate::exit::Exit;
use crate::output::file::write_file;

/// Prints the metrics on stdout, or writes them to `--write`.
pub(crate) async fn run(context: &Context, args: &Metrics) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let metrics: message::Metrics = client
        .call(method::METRICS, &serde_json::Value::Null)
        .await?;
    match &args.write {
        None if context.ui.json => context.ui.json(&metrics),
        None => Ok(std::io::stdout()
            .lock()
            .write_all(metrics.text.as_bytes())?),
        Some(path) => write_file(path, &metrics.text),
    }
}
