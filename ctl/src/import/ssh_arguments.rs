//! The arguments of ssh and autossh as a tunnel.

use std::path::Path;

use clap::Parser;
use serde_json::Value;

use super::{ImportedTunnel, valid_name};
use crate::adhoc::AdHocArgs;
use crate::exit::Exit;
use crate::options::Spec;

/// Flags of ssh(1) that have a value.
const WITH_VALUE: &str = "BDEFIJLOPQRSWbceilmopw";

/// Flags of ssh(1) without a value.
const WITHOUT_VALUE: &str = "1246ACGKMNTVXYafgknqstvxy";

/// ssh's flags after they were brought into an order that clap reads.
#[derive(Debug, Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
struct SshLine {
    #[command(flatten)]
    flags: AdHocArgs,
    names: Vec<String>,
}

pub(super) fn unreadable(reason: &str) -> Exit {
    Exit::usage(format!("the command line cannot be read: {reason}"))
        .hint("give the ssh, autossh or sshuttle command alone")
}

/// What a walk over ssh's arguments found.
#[derive(Debug, Default)]
struct Arguments {
    // Flags in a form that clap reads: one word each.
    flags: Vec<String>,
    // The destination, then the words of a command.
    names: Vec<String>,
    notes: Vec<String>,
}

/// Makes the tunnel of the arguments of ssh or autossh.
pub(super) fn ssh(
    words: &[String],
    auto: bool,
    cwd: Option<&Path>,
) -> Result<ImportedTunnel, Exit> {
    let mut found = walk(words, auto)?;
    let destination = found
        .names
        .first()
        .ok_or_else(|| unreadable("it names no host"))?;
    let name = format!("--name={}", valid_name(host_of(destination)));
    let line = [
        found.flags,
        vec![name, "--".to_owned()],
        found.names.clone(),
    ]
    .concat();
    let parsed = SshLine::try_parse_from(line).map_err(|err| {
        let text = err.to_string();
        unreadable(
            text.lines()
                .next()
                .unwrap_or_default()
                .trim_start_matches("error: "),
        )
    })?;
    let (add, notes) = parsed.flags.to_add(&parsed.names, cwd)?;
    let mut tunnel = ImportedTunnel::new(&add.name);
    if let Value::Object(keys) = add.spec {
        for (key, value) in keys {
            tunnel.set(&key, value);
        }
    }
    found.notes.extend(notes);
    for note in found.notes {
        tunnel.note(note);
    }
    Ok(tunnel)
}

/// The host of `[ssh://][user@]host[:port]`.
fn host_of(destination: &str) -> &str {
    let bare = destination.strip_prefix("ssh://").unwrap_or(destination);
    let host = bare.rsplit_once('@').map_or(bare, |(_, host)| host);
    match host.rsplit_once(':') {
        Some((host, _)) if host.ends_with(']') || !host.contains(':') => host,
        _ => host,
    }
    .trim_matches(['[', ']', '/'])
}

/// Sorts the arguments as ssh does: flags may stand behind the destination, too, until the command begins.
fn walk(words: &[String], auto: bool) -> Result<Arguments, Exit> {
    let mut found = Arguments::default();
    let mut words = words.iter();
    let mut flags_end = false;
    while let Some(word) = words.next() {
        let flags = word
            .strip_prefix('-')
            .filter(|flags| !flags.is_empty() && !flags_end && found.names.len() < 2);
        match flags {
            Some("-") => flags_end = true,
            Some(flags) => walk_flags(&mut found, flags, &mut words, auto)?,
            None => found.names.push(word.clone()),
        }
    }
    Ok(found)
}

/// Reads one word of flags: `-NfL` with the value in the same word or the next.
fn walk_flags<'a>(
    found: &mut Arguments,
    flags: &str,
    words: &mut impl Iterator<Item = &'a String>,
    auto: bool,
) -> Result<(), Exit> {
    let mut chars = flags.chars();
    while let Some(flag) = chars.next() {
        if WITH_VALUE.contains(flag) || (auto && flag == 'M') {
            let value = match chars.as_str() {
                "" => words.next().cloned(),
                rest => Some(rest.to_owned()),
            };
            let value = value.ok_or_else(|| unreadable(&format!("-{flag} has no value")))?;
            with_value(found, flag, &value);
            return Ok(());
        }
        match flag {
            // The protocol's version, and how much ssh prints.
            '1' | '2' | 'q' | 'v' => {}
            's' => found
                .notes
                .push("-s is left out: a tunnel runs no subsystem".to_owned()),
            'G' | 'V' => return Err(unreadable(&format!("-{flag} only prints"))),
            _ if WITHOUT_VALUE.contains(flag) => found.flags.push(format!("-{flag}")),
            _ => return Err(unreadable(&format!("ssh has no option -{flag}"))),
        }
    }
    Ok(())
}

fn with_value(found: &mut Arguments, flag: char, value: &str) {
    match flag {
        // autossh's monitoring port: tunneld watches the session itself.
        'M' => {}
        'W' => found.notes.push(format!(
            "-W {value} is left out: use tunnelctl connect NAME {value}"
        )),
        'w' => found
            .notes
            .push(format!("-w {value} is left out: tunneld has no tun device")),
        'O' | 'Q' | 'P' => found.notes.push(format!("-{flag} {value} is left out")),
        'o' => match Spec::new(None).option(value) {
            Ok(()) => found.flags.push(format!("-o{value}")),
            Err(exit) => {
                let why = exit.message.unwrap_or_default();
                found.notes.push(format!("not carried over: {why}"));
            }
        },
        'L' | 'D' if value.starts_with("*:") => {
            let rest = value.trim_start_matches('*');
            found.notes.push(format!(
                "-{flag} {value} listens on all addresses of this machine, as before"
            ));
            found.flags.push(format!("-{flag}0.0.0.0{rest}"));
        }
        _ => found.flags.push(format!("-{flag}{value}")),
    }
}
