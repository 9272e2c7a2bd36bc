//! Which tunnels a command names, and why one that stands in a file may be none.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;

use tunneld_proto::client::Client;
use tunneld_proto::message::{ConfigFault, DaemonStatus, method};
use tunneld_proto::status::TunnelStatus;

use crate::cli::Which;
use crate::exit::{Exit, NO_TUNNEL};
use crate::select::{is_pattern, select};

/// How much of a file is looked at.
const LOOK: u64 = 1 << 20;

/// The names meant; where one is none for the errors of the configuration, these are told.
pub(super) async fn named(
    client: &mut Client,
    tunnels: &[TunnelStatus],
    which: &Which,
) -> Result<Vec<String>, Exit> {
    match select(tunnels, which) {
        Err(exit) if exit.code == NO_TUNNEL => {
            let daemon: Result<DaemonStatus, _> = client
                .call(method::DAEMON_STATUS, &serde_json::Value::Null)
                .await;
            let faults = daemon.map(|daemon| daemon.config_errors);
            Err(explain(exit, which, tunnels, &faults.unwrap_or_default()))
        }
        selected => selected,
    }
}

fn explain(exit: Exit, which: &Which, tunnels: &[TunnelStatus], faults: &[ConfigFault]) -> Exit {
    let is_none =
        |name: &&String| !is_pattern(name) && !tunnels.iter().any(|tunnel| tunnel.name == **name);
    for name in which.names.iter().filter(is_none) {
        let holds = |fault: &&ConfigFault| read(&fault.file).is_some_and(|text| has(&text, name));
        if let Some(ConfigFault { file, .. }) = faults.iter().find(holds) {
            let its = faults.iter().filter(|fault| fault.file == *file);
            let causes = its.map(|fault| fault.rendered.clone()).collect();
            let exit = Exit {
                causes,
                ..Exit::usage(format!("{name} stands in {file}, which has errors"))
            };
            return exit.hint("correct them: the daemon reads the file again by itself");
        }
    }
    let files: BTreeSet<&str> = faults.iter().map(|fault| fault.file.as_str()).collect();
    if files.is_empty() {
        return exit;
    }
    let files: Vec<&str> = files.into_iter().collect();
    let hint = exit.hint.clone().unwrap_or_default();
    exit.hint(format!(
        "{hint}\nor it stands in a file that has errors: {}",
        files.join(", ")
    ))
}

fn read(file: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(file).ok()?;
    file.take(LOOK).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a TOML text, broken perhaps, has the table `[tunnel.NAME]`.
fn has(text: &str, name: &str) -> bool {
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
            assert_eq!(has(text, name), found, "{name}");
        }
    }
}
