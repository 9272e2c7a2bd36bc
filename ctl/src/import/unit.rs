//! systemd units whose ExecStart runs ssh, autossh or sshuttle (systemd.service(5), systemd.syntax(7)).

use std::collections::BTreeMap;

use super::{Import, MAX_TUNNELS, command_line};
use crate::exit::Exit;

/// Replaces a specifier or a variable whose value only systemd knows; valid in a host and a path.
const PLACEHOLDER: &str = "REPLACE-ME";

/// The longest command, in bytes, before and after its variables are replaced: Linux limits each argument to as much.
const MAX_COMMAND: usize = 128 << 10;

/// Settings of a unit that start other programs.
const OTHER_PROGRAMS: &[&str] = &[
    "ExecStartPre",
    "ExecStartPost",
    "ExecCondition",
    "ExecReload",
    "ExecStop",
    "ExecStopPost",
];

/// The parts of a unit that matter here.
#[derive(Debug, Default)]
struct Unit {
    commands: Vec<String>,
    variables: BTreeMap<String, String>,
    notes: Vec<String>,
}

/// Reads a unit. `file` is its name, of which `%i` is the part behind `@`.
///
/// # Errors
/// No ExecStart of the unit makes a tunnel.
pub(crate) fn read(text: &str, file: &str) -> Result<Import, Exit> {
    let unit = parse(text);
    let mut import = Import::default();
    let mut first_error = None;
    for command in unit.commands.iter().take(MAX_TUNNELS) {
        let (words, mut notes) = match words(command, file, &unit.variables) {
            Ok(words) => words,
            Err(reason) => {
                first_error.get_or_insert_with(|| {
                    Exit::usage(format!("ExecStart cannot be read: {reason}"))
                });
                continue;
            }
        };
        match command_line::tunnel(&words, None) {
            Ok(mut tunnel) => {
                // Not all of them: each of many commands would repeat them.
                notes.extend(unit.notes.iter().take(20).cloned());
                for note in notes {
                    tunnel.note(note);
                }
                import.push(tunnel);
            }
            Err(exit) => {
                first_error.get_or_insert(exit);
            }
        }
    }
    if import.tunnels.is_empty() {
        let exit =
            first_error.unwrap_or_else(|| Exit::usage("the file has no ExecStart in [Service]"));
        return Err(exit.hint("give a unit whose ExecStart runs ssh, autossh or sshuttle"));
    }
    Ok(import)
}

/// Lines with `\` at the end continue; comments between them are left out.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        let line = line.trim_end_matches('\r');
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let mut whole = open.take().unwrap_or_default();
        match line.strip_suffix('\\') {
            Some(part) => {
                whole.push_str(part);
                whole.push(' ');
                open = Some(whole);
            }
            None => {
                whole.push_str(line);
                lines.push(whole);
            }
        }
    }
    lines.extend(open);
    lines
}

fn parse(text: &str) -> Unit {
    let mut unit = Unit::default();
    let mut in_service = false;
    for line in logical_lines(text) {
        let line = line.trim();
        if line.starts_with('[') {
            in_service = line == "[Service]";
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| in_service) else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        match key {
            // An empty one takes back those before it.
            "ExecStart" if value.is_empty() => unit.commands.clear(),
            "ExecStart" => unit.commands.push(value.to_owned()),
            "Environment" => {
                for word in split(value).unwrap_or_default() {
                    if let Some((name, value)) = word.split_once('=') {
                        unit.variables.insert(name.to_owned(), value.to_owned());
                    }
                }
            }
            "EnvironmentFile" => unit
                .notes
                .push(format!("the variables of {value} are not read")),
            "User" => unit.notes.push(format!(
                "the unit ran as the user {value}: paths such as ~ are now yours"
            )),
            "WorkingDirectory" => unit
                .notes
                .push(format!("relative paths were below {value}")),
            key if OTHER_PROGRAMS.contains(&key) => {
                unit.notes
                    .push(format!("not carried over: {key} ran another program"));
            }
            _ => {}
        }
    }
    unit
}

/// The words of a command, with variables and specifiers replaced, and a note for each that has no known value.
fn words(
    command: &str,
    file: &str,
    variables: &BTreeMap<String, String>,
) -> Result<(Vec<String>, Vec<String>), String> {
    let mut notes = Vec::new();
    let mut words = Vec::new();
    let mut size = command.len();
    let command = command.trim_start_matches(['@', '-', ':', '+', '!', '|']);
    let split = if size > MAX_COMMAND {
        Vec::new()
    } else {
        split(command)?
    };
    for word in split {
        let word = specifiers(&word, file, &mut notes);
        // `$NAME` as a whole word is split at blanks, `${NAME}` is not.
        let whole = word
            .strip_prefix('$')
            .filter(|name| !name.starts_with(['{', '$']) && !name.is_empty());
        let text = match whole {
            Some(name) => value_of(name, variables, &mut notes),
            None => expand(&word, variables, &mut notes),
        };
        size = size.saturating_add(text.len());
        if size > MAX_COMMAND {
            break;
        }
        match whole {
            Some(_) => words.extend(text.split_whitespace().map(str::to_owned)),
            None => words.push(text),
        }
    }
    if size > MAX_COMMAND {
        return Err(format!("it is longer than {MAX_COMMAND} bytes"));
    }
    Ok((words, notes))
}

fn value_of(name: &str, variables: &BTreeMap<String, String>, notes: &mut Vec<String>) -> String {
    variables.get(name).cloned().unwrap_or_else(|| {
        notes.push(format!(
            "the value of ${name} is not in the unit: replace {PLACEHOLDER}"
        ));
        PLACEHOLDER.to_owned()
    })
}

fn expand(word: &str, variables: &BTreeMap<String, String>, notes: &mut Vec<String>) -> String {
    let mut text = String::new();
    let mut rest = word;
    // A text that is too long is refused by the caller; a small unit must not grow to gigabytes before.
    while text.len() <= MAX_COMMAND
        && let Some((before, behind)) = rest.split_once('$')
    {
        text.push_str(before);
        if let Some(behind) = behind.strip_prefix('$') {
            text.push('$');
            rest = behind;
        } else if let Some((name, behind)) = behind
            .strip_prefix('{')
            .and_then(|behind| behind.split_once('}'))
        {
            text.push_str(&value_of(name, variables, notes));
            rest = behind;
        } else {
            text.push('$');
            rest = behind;
        }
    }
    text + rest
}

fn specifiers(word: &str, file: &str, notes: &mut Vec<String>) -> String {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let instance = stem
        .split_once('@')
        .map(|(_, instance)| instance)
        .filter(|instance| !instance.is_empty());
    let mut text = String::new();
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match (chars.next(), instance) {
            (Some('%'), _) => text.push('%'),
            // In a user's unit this is the home directory.
            (Some('h'), _) if text.is_empty() || text.ends_with(['=', ',']) => text.push('~'),
            (Some('i' | 'I'), Some(instance)) => text.push_str(instance),
            (Some(other), _) => {
                notes.push(format!(
                    "the unit's %{other} is only known to systemd: replace {PLACEHOLDER}"
                ));
                text.push_str(PLACEHOLDER);
            }
            (None, _) => text.push('%'),
        }
    }
    text
}

/// Splits at blanks, with quotes and the escapes of C.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => {
                let escaped = chars.next().ok_or("a backslash at the end")?;
                word.get_or_insert_default().push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    's' => ' ',
                    other => other,
                });
            }
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const UNIT: &str = "[Unit]\nDescription=x\nExecStart=not here\n[Service]\nUser=me\nEnvironment=\"PORT=8157\" HOST=emr.example\n\
        ExecStartPre=/bin/true\nExecStart=\nExecStart=-/usr/bin/autossh -M 0 -N \\\n# a comment\n  -o \"ServerAliveInterval 30\" \\\n\
        -D ${PORT} -i %h/key.pem $HOST\nRestart=always\n";

    #[test]
    fn the_command_of_a_unit_becomes_a_tunnel() {
        let import = read(UNIT, "tunnel.service").unwrap();
        let tunnel = &import.tunnels[0];
        assert_eq!(
            Value::Object(tunnel.keys.clone()),
            json!({"host": "emr.example", "identity_file": ["~/key.pem"], "dynamic_forward": ["8157"],
                "server_alive_interval": "30"})
        );
        let notes = tunnel.notes.join("\n");
        assert!(
            notes.contains("the user me") && notes.contains("ExecStartPre"),
            "{notes}"
        );
    }

    #[test]
    fn instances_are_known_by_the_name_and_other_values_are_to_be_replaced() {
        let text = "[Service]\nExecStart=/usr/bin/ssh -N -L 1:a:2 -i /k/%u-${WHO} %i\n";
        let tunnel = read(text, "ssh@db.service").unwrap().tunnels.remove(0);
        assert_eq!(tunnel.keys["host"], "db");
        assert_eq!(
            tunnel.keys["identity_file"],
            json!(["/k/REPLACE-ME-REPLACE-ME"])
        );
        assert_eq!(tunnel.notes.len(), 2, "{:?}", tunnel.notes);
        let tunnel = read(text, "ssh@.service").unwrap().tunnels.remove(0);
        assert_eq!(tunnel.keys["host"], "REPLACE-ME");
    }

    #[test]
    fn units_without_a_tunnel_are_one_error() {
        let bomb = format!(
            "[Service]\nEnvironment=A={}\nExecStart=ssh {}\n",
            "x".repeat(1 << 20),
            "${A}".repeat(30_000)
        );
        let long = format!("[Service]\nExecStart=ssh {}\n", "x".repeat(1 << 20));
        for (text, part) in [
            ("", "no ExecStart"),
            ("ExecStart=/usr/bin/ssh h", "no ExecStart"),
            ("[Service]\nExecStart=/bin/true", "it runs true"),
            ("[Service]\nExecStart=\"ssh", "quote"),
            ("[Service]\nExecStart=ssh \\", "names no host"),
            ("[Service]\nExecStart=ssh %", "names no host"),
            (&bomb, "longer than"),
            (&long, "longer than"),
        ] {
            let result = read(text, "x.service");
            match result {
                Err(exit) => assert!(exit.message.unwrap().contains(part), "{text}"),
                Ok(import) => assert_eq!(import.tunnels[0].name, "tunnel", "{text}"),
            }
        }
    }
}
