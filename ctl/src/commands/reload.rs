//! `tunnelctl reload`: makes the daemon read the configuration again.

use std::collections::BTreeSet;
use std::time::Duration;

use tunneld_proto::message::{ReloadReport, method};

use crate::daemon::Context;
use crate::exit::{Exit, USAGE};
use crate::output::line::{Line, Style};
use crate::output::status;

/// How long the daemon may take: it runs `ssh -G` for every host.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Reloads the configuration and prints what changed; exit 2 if a file has errors, although the other files apply.
pub(crate) async fn run(context: &Context) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let report: ReloadReport = client
        .call_within(method::RELOAD, &serde_json::Value::Null, RELOAD_TIMEOUT)
        .await?;
    if context.ui.json {
        context.ui.json(&report)?;
    }
    print_changes(context, &report);
    if report.errors.is_empty() {
        return Ok(());
    }
    for line in report.errors.iter().flat_map(status::config_error) {
        context.ui.warn(&line);
    }
    let files: BTreeSet<&str> = report
        .errors
        .iter()
        .map(|error| error.file.as_str())
        .collect();
    let files: Vec<&str> = files.into_iter().collect();
    Err(Exit::new(USAGE, format!("errors in: {}", files.join(", "))).hint(
        "tunnels in these files keep their last good configuration, the other files apply; correct the errors: the daemon reads a changed file again by itself",
    ))
}

fn print_changes(context: &Context, report: &ReloadReport) {
    let changes = [
        ("added", Style::Good, &report.added),
        ("changed", Style::Warn, &report.changed),
        ("removed", Style::Bad, &report.removed),
    ];
    for (word, style, names) in changes {
        if !names.is_empty() {
            context
                .ui
                .info(Line::of(style, word).and(": ").and(names.join(" ")));
        }
    }
    if changes.iter().all(|(.., names)| names.is_empty()) && report.errors.is_empty() {
        context.ui.info("nothing has changed");
    }
}
