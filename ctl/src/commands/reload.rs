//! `reload`: has the daemon read the configuration again.

use std::time::Duration;

use tunneld_proto::message::{ReloadReport, method};

use crate::daemon::Context;
use crate::exit::{Exit, USAGE};
use crate::output::line::{Ink, Line};
use crate::output::status;

/// How long the daemon may take: it asks ssh about every host.
const READ: Duration = Duration::from_secs(60);

/// Runs the command.
pub(crate) async fn run(context: &Context) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let report: ReloadReport = client
        .call_within(method::RELOAD, &serde_json::Value::Null, READ)
        .await?;
    if context.ui.json {
        context.ui.json(&report)?;
    }
    let changes = [
        ("added", Ink::Good, &report.added),
        ("changed", Ink::Warn, &report.changed),
        ("removed", Ink::Bad, &report.removed),
    ];
    for (word, ink, names) in changes {
        if !names.is_empty() {
            context
                .ui
                .say(Line::of(ink, word).and(": ").and(names.join(" ")));
        }
    }
    if changes.iter().all(|(.., names)| names.is_empty()) && report.errors.is_empty() {
        context.ui.say("nothing has changed");
    }
    if report.errors.is_empty() {
        return Ok(());
    }
    for line in report.errors.iter().flat_map(status::fault) {
        context.ui.complain(&line);
    }
    let files: std::collections::BTreeSet<&str> = report
        .errors
        .iter()
        .map(|fault| fault.file.as_str())
        .collect();
    let files: Vec<&str> = files.into_iter().collect();
    Err(Exit::new(USAGE, format!("errors in: {}", files.join(", "))).hint(
        "what they stand in keeps its last good state, all else applies; correct them and run: tunnelctl reload",
    ))
}
