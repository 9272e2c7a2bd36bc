//! Resolves the names on the command line to tunnels, and explains why a configured tunnel may be missing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;

use tunneld_proto::client::Client;
use tunneld_proto::message::{ConfigFault, DaemonStatus, method};
use tunneld_proto::status::TunnelStatus;

use crate::cli::Selection;
use crate::daemon::Context;
use crate::exit::{Exit, FAILED, NO_DAEMON, NO_TUNNEL, USAGE};
use crate::output::line::{Line, Style};
use crate::output::status;
use crate::select::{is_pattern, select};

/// Bytes of a configuration file that are searched for a tunnel, at most.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Returns the names of the selected tunnels. For a tunnel that is missing because its file has errors, the error shows
/// these instead of "no such tunnel".
pub(super) async fn resolve_names(
    client: &mut Client,
    tunnels: &[TunnelStatus],
    selection: &Selection,
) -> Result<Vec<String>, Exit> {
    match select(tunnels, selection) {
        Err(exit) if exit.code == NO_TUNNEL => {
            let daemon: Result<DaemonStatus, _> = client
                .call(method::DAEMON_STATUS, &serde_json::Value::Null)
                .await;
            let errors = daemon.map(|daemon| daemon.config_errors);
            Err(explain(
                exit,
                selection,
                tunnels,
                &errors.unwrap_or_default(),
            ))
        }
        selected => selected,
    }
}

/// Prints the errors of the configuration; exit 2 if there are any.
pub(super) fn print_config_errors(context: &Context, errors: &[ConfigFault]) -> Result<(), Exit> {
    if errors.is_empty() {
        return Ok(());
    }
    for line in errors.iter().flat_map(status::config_error) {
        context.ui.warn(&line);
    }
    context.ui.warn(&Line::of(Style::Warn, "warning").and(
        ": the configuration has errors; tunnels in these files keep their last good configuration. Correct the errors: the daemon reads a changed file again by itself",
    ));
    Err(Exit::silent(USAGE))
}

/// After a command for all tunnels, for a tag or for a pattern: prints the errors of the configuration, because tunnels
/// of a broken file may be missing in the selection. Exit 2 if there are any and the command itself has succeeded.
pub(super) async fn check_selection(
    context: &Context,
    client: &mut Client,
    selection: &Selection,
    outcome: Result<(), Exit>,
) -> Result<(), Exit> {
    let is_exact = !selection.all
        && selection.tag.is_empty()
        && !selection.names.iter().any(|name| is_pattern(name));
    if is_exact || matches!(&outcome, Err(exit) if exit.code == NO_DAEMON) {
        return outcome;
    }
    let daemon: DaemonStatus = client
        .call(method::DAEMON_STATUS, &serde_json::Value::Null)
        .await?;
    let complete = print_config_errors(context, &daemon.config_errors);
    outcome.and(complete)
}

/// Returns the error for a command that needs the proxy of a tunnel without one.
pub(super) fn no_proxy(name: &str) -> Exit {
    Exit::new(
        FAILED,
        format!("the tunnel {name} has no proxy: no dynamic forward listens on a TCP port"),
    )
    .hint(format!(
        "set dynamic_forward = 8157 in [tunnel.{name}]; if it is set, see: tunnelctl status {name}"
    ))
}

fn explain(
    exit: Exit,
    selection: &Selection,
    tunnels: &[TunnelStatus],
    errors: &[ConfigFault],
) -> Exit {
    let is_missing =
        |name: &&String| !is_pattern(name) && !tunnels.iter().any(|tunnel| tunnel.name == **name);
    for name in selection.names.iter().filter(is_missing) {
        let defines =
            |error: &&ConfigFault| read(&error.file).is_some_and(|text| has_table(&text, name));
        if let Some(ConfigFault { file, .. }) = errors.iter().find(defines) {
            let in_file = errors.iter().filter(|error| error.file == *file);
            let causes = in_file.map(|error| error.rendered.clone()).collect();
            let exit = Exit {
                causes,
                ..Exit::usage(format!("{name} is configured in {file}, which has errors"))
            };
            return exit.hint("correct them; the daemon reads a changed file again by itself");
        }
    }
    let files: BTreeSet<&str> = errors.iter().map(|error| error.file.as_str()).collect();
    if files.is_empty() {
        return exit;
    }
    let files: Vec<&str> = files.into_iter().collect();
    let hint = exit.hint.clone().unwrap_or_default();
    exit.hint(format!(
        "{hint}\nor the tunnel is in a file that has errors: {}",
        files.join(", ")
    ))
}

fn read(file: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(file).ok()?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns whether a TOML text has the table `[tunnel.NAME]`. The text may be invalid TOML, so it is searched line by
/// line instead of parsed.
fn has_table(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        let title = line.trim_start().strip_prefix('[');
        let title = title.and_then(|rest| rest.split([']', '#']).next());
        let name_of = |title: &str| {
            let (table, name) = title.split_once('.')?;
            (table.trim() == "tunnel").then(|| name.trim().trim_matches(['"', '\'']).to_owned())
        };
        title.and_then(name_of).is_some_and(|found| found == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_in_a_broken_file() {
        let text = "[tunnel.a]\nhost = \n  [ tunnel . \"b.c\" ] # it\n# [tunnel.d]\n[tunnels.e]\n[tunnel.f";
        for (name, found) in [
            ("a", true),
            ("b.c", true),
            ("d", false),
            ("e", false),
            ("f", true),
            ("", false),
        ] {
            assert_eq!(has_table(text, name), found, "{name}");
        }
    }
}
