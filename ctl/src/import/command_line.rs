//! A command line of ssh, autossh or sshuttle as a tunnel. What `tunnelctl up` accepts of ssh's flags is accepted here, and
//! the rest becomes a comment, so that a pasted line always gives something.

use std::path::Path;

use super::ssh_arguments::{ssh, unreadable};
use super::{Import, ImportedTunnel, shell_words, sshuttle};
use crate::exit::Exit;

/// The most words of a command line.
const MAX_WORDS: usize = 4096;

/// Reads a command line. Relative paths in it are resolved against `cwd`.
///
/// # Errors
/// It runs none of the programs, or not in a way that makes a tunnel.
pub(crate) fn read(words: &[String], cwd: Option<&Path>) -> Result<Import, Exit> {
    // One word with blanks: the whole line was quoted.
    let split = match words {
        [line] if line.contains(char::is_whitespace) => {
            shell_words::split(line).map_err(|reason| unreadable(&reason))?
        }
        words => words.to_vec(),
    };
    let mut import = Import::default();
    import.push(tunnel(&split, cwd)?);
    Ok(import)
}

/// Makes the tunnel of a command line, behind whatever starts the program (`sudo`, `env`, `sshpass`, `sh -c`).
pub(super) fn tunnel(words: &[String], cwd: Option<&Path>) -> Result<ImportedTunnel, Exit> {
    if words.len() > MAX_WORDS {
        return Err(unreadable(&format!("it has more than {MAX_WORDS} words")));
    }
    let mut notes = Vec::new();
    let mut has_password = false;
    let mut rest = words;
    // Each round leaves out at least one word.
    let mut tunnel = loop {
        let [first, behind @ ..] = rest else {
            return Err(unreadable("it runs neither ssh nor autossh nor sshuttle"));
        };
        rest = behind;
        match program_of(first) {
            "ssh" => break ssh(behind, false, cwd)?,
            "autossh" => break ssh(behind, true, cwd)?,
            "sshuttle" => break sshuttle::tunnel(behind, cwd)?,
            "nohup" | "exec" | "setsid" | "time" | "command" | "stdbuf" => {}
            "sudo" | "doas" => {
                notes.push("it ran as another user: paths such as ~ are now yours");
                rest = skip_flags(rest, "ugCp");
            }
            "nice" => rest = skip_flags(rest, "n"),
            "env" => rest = skip_flags(rest, "uC"),
            "sshpass" => {
                has_password = true;
                rest = skip_flags(rest, "pfdP");
            }
            "sh" | "bash" | "dash" | "zsh" => {
                let inner = script(behind)?;
                // A shell in a shell in a shell: nobody writes that by hand.
                if inner.first() == Some(first) {
                    return Err(unreadable("a shell runs a shell"));
                }
                break self::tunnel(&inner, cwd)?;
            }
            _ if is_assignment(first) => {}
            program => {
                return Err(unreadable(&format!(
                    "it runs {program}, which is neither ssh nor autossh nor sshuttle"
                )));
            }
        }
    };
    for note in notes {
        tunnel.note(note);
    }
    if has_password {
        tunnel.note_password("sshpass in the command line");
    }
    Ok(tunnel)
}

/// The name of a program without its folder.
fn program_of(word: &str) -> &str {
    let name = word.rsplit(['/', '\\']).next().unwrap_or_default();
    name.strip_suffix(".exe").unwrap_or(name)
}

/// The words of `-c SCRIPT`.
fn script(arguments: &[String]) -> Result<Vec<String>, Exit> {
    let is_flag = |word: &&String| word.starts_with('-') && word.ends_with('c');
    let script = arguments.iter().skip_while(|word| !is_flag(word)).nth(1);
    let script = script.ok_or_else(|| unreadable("a script file is not read"))?;
    shell_words::split(script).map_err(|reason| unreadable(&reason))
}

/// Whether the word is `NAME=value`, which sets a variable for the program.
fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Leaves out flags, where those of `with_value` have a value.
fn skip_flags<'a>(mut words: &'a [String], with_value: &str) -> &'a [String] {
    while let [word, behind @ ..] = words
        && let Some(flags) = word.strip_prefix('-')
    {
        words = behind;
        if flags == "-" {
            break;
        }
        if flags.len() == 1 && with_value.contains(flags) {
            words = words.get(1..).unwrap_or_default();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn line(text: &str) -> Result<ImportedTunnel, Exit> {
        let mut import = read(&[text.to_owned()], Some(Path::new("/here")))?;
        Ok(import.tunnels.remove(0))
    }

    #[test]
    fn command_lines_of_ssh_and_autossh_become_tunnels() {
        for (text, name, keys) in [
            (
                "autossh -M 0 -fN -o ServerAliveInterval=15 -L 8088:localhost:8088 -i ~/k.pem hadoop@emr.example",
                "emr.example",
                json!({"host": "hadoop@emr.example", "identity_file": ["~/k.pem"], "local_forward": ["8088:localhost:8088"],
                    "server_alive_interval": "15"}),
            ),
            (
                "ssh mahuika -NL5555:localhost:6666",
                "mahuika",
                json!({"host": "mahuika", "local_forward": ["5555:localhost:6666"]}),
            ),
            (
                "AUTOSSH_GATETIME=0 /usr/bin/autossh -M20000 -D 8157 h",
                "h",
                json!({"host": "h", "dynamic_forward": ["8157"]}),
            ),
            (
                "sudo -u me -E env A=b nohup ssh -vvT -D1 h",
                "h",
                json!({"host": "h", "dynamic_forward": ["1"]}),
            ),
            (
                "sh -c 'exec ssh -N -D 1 h'",
                "h",
                json!({"host": "h", "dynamic_forward": ["1"]}),
            ),
            (
                "ssh -ND '*:1080' h -p 2200",
                "h",
                json!({"host": "h", "port": 2200, "dynamic_forward": ["0.0.0.0:1080"]}),
            ),
            (
                "ssh -D 1 -- u@[2001:db8::1]:2200",
                "2001-db8--1",
                json!({"host": "u@[2001:db8::1]:2200", "dynamic_forward": ["1"]}),
            ),
        ] {
            let tunnel = line(text).unwrap();
            assert_eq!(
                (tunnel.name.as_str(), Value::Object(tunnel.keys)),
                (name, keys),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_carried_over_is_a_note() {
        for (text, note) in [
            ("ssh -W a:22 h", "-W a:22 is left out"),
            ("ssh -oFoo=1 h", "-o Foo: unknown option"),
            ("ssh -o Tunnel=yes h", "no tun device"),
            ("ssh -D 1 h sleep 60 -x", "sleep 60 -x"),
            ("sshpass -p secret ssh -D 1 h", "password_command"),
            (
                "sshpass -psecret ssh -D 1 h",
                "sshpass in the command line has a password",
            ),
            (
                "ssh -o ProxyCommand='nc %h %p' h",
                "proxy_command runs a program",
            ),
        ] {
            let tunnel = line(text).unwrap();
            assert!(
                tunnel.notes.iter().any(|known| known.contains(note)),
                "{text}: {:?}",
                tunnel.notes
            );
            assert!(!format!("{tunnel:?}").contains("secret"), "{text}");
            assert!(!tunnel.keys.contains_key("proxy_command"));
        }
    }

    #[test]
    fn what_makes_no_tunnel_is_one_error() {
        for (text, part) in [
            ("scp a b", "it runs scp"),
            ("ssh", "names no host"),
            ("ssh -L", "-L has no value"),
            ("ssh -N -L", "-L has no value"),
            ("ssh -Z h", "no option -Z"),
            ("ssh -V h", "only prints"),
            ("ssh -4 -6 h", "cannot be used with"),
            ("ssh -p x h", "invalid value"),
            ("ssh a | tee b", "`|` needs a shell"),
            ("sh -c", "script file"),
            ("sh -c 'sh -c x'", "a shell runs a shell"),
            ("sudo  -u", "it runs neither"),
        ] {
            let exit = read(&[text.to_owned()], None).unwrap_err();
            assert_eq!(exit.code, 2);
            let message = exit.message.unwrap();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(read(&[], None).is_err());
    }
}
