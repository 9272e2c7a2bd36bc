//! A command line of sshuttle: the networks that it routes are written as comments, because taking them over needs rights
//! that only the user can grant.

use std::path::Path;

use super::{ImportedTunnel, shell_words, ssh_arguments};
use crate::exit::Exit;

/// Options of sshuttle(1) with a value that has no meaning here.
const IGNORED: &[&str] = &[
    "--listen",
    "-l",
    "--method",
    "--pidfile",
    "--python",
    "--seed-hosts",
    "--user",
    "--group",
    "--syslog-tag",
    "--ttl",
    "--sudoers-user",
    "--tmark",
    "--namespace",
    "--to-ns",
    "--wrap",
    "--ns-hosts",
    "--remote-shell",
    "--hostwatch",
    "--latency-buffer-size",
];

/// What the arguments say.
#[derive(Debug, Default)]
struct Arguments {
    remote: Option<String>,
    ssh_command: Option<String>,
    nets: Vec<String>,
    excluded: Vec<String>,
    dns: bool,
    notes: Vec<String>,
}

fn parse(words: &[String]) -> Arguments {
    let mut found = Arguments::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (option, attached) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let mut value = || {
            attached
                .clone()
                .or_else(|| words.next().cloned())
                .unwrap_or_default()
        };
        match option {
            "-r" | "--remote" => found.remote = Some(value()),
            "-e" | "--ssh-cmd" => found.ssh_command = Some(value()),
            "-x" | "--exclude" => found.excluded.push(network(&value())),
            "-X" | "--exclude-from" | "-s" | "--subnets" => {
                let file = value();
                found
                    .notes
                    .push(format!("the networks in the file {file} are not read"));
            }
            "--dns" => found.dns = true,
            "-N" | "--auto-nets" | "-H" | "--auto-hosts" => {
                found.notes.push(format!(
                    "{option} is not carried over: tunneld routes only what is written"
                ));
            }
            option if IGNORED.contains(&option) => drop(value()),
            option if option.starts_with('-') => {}
            net => found.nets.push(network(net)),
        }
    }
    found
}

/// Makes the tunnel of sshuttle's arguments.
pub(super) fn tunnel(words: &[String], cwd: Option<&Path>) -> Result<ImportedTunnel, Exit> {
    let found = parse(words);
    let remote = found.remote.ok_or_else(|| {
        Exit::usage("the sshuttle command names no server")
            .hint("give the whole command, with -r [USER@]HOST")
    })?;
    let (remote, has_password) = without_password(&remote);
    let command = found.ssh_command.unwrap_or_else(|| "ssh".to_owned());
    let mut ssh = shell_words::split(&command).map_err(Exit::usage)?;
    ssh.push(remote);
    let mut tunnel = ssh_arguments::ssh(ssh.get(1..).unwrap_or_default(), false, cwd)?;
    for note in found.notes {
        tunnel.note(note);
    }
    if has_password {
        tunnel.note_password("sshuttle's -r");
    }
    tunnel.note("subnets takes over connections of the whole machine and needs root: remove its # if this tunneld has it,");
    tunnel.note("or use a proxy: dynamic_forward = 1080 with proxy_for for these networks");
    tunnel.disable("subnets", found.nets);
    if !found.excluded.is_empty() {
        tunnel.disable("subnets_exclude", found.excluded);
    }
    if found.dns {
        tunnel.disable("subnets_dns", true);
    }
    Ok(tunnel)
}

/// `0/0` is sshuttle's short form of everything.
fn network(text: &str) -> String {
    match text {
        "0/0" | "0" => "0.0.0.0/0".to_owned(),
        text => text.to_owned(),
    }
}

/// Leaves out the password of `user:password@host`.
fn without_password(remote: &str) -> (String, bool) {
    if let Some((login, host)) = remote.rsplit_once('@')
        && let Some((user, _)) = login.split_once(':')
    {
        return (format!("{user}@{host}"), true);
    }
    (remote.to_owned(), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(text: &str) -> Result<ImportedTunnel, Exit> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        tunnel(&words, None)
    }

    #[test]
    fn networks_are_comments_and_the_server_is_a_key() {
        let tunnel = line("--dns -v -r me:secret@mahuika:2222 192.168.0.0/16 0/0 -x 10.0.0.0/8 --python=py -l 0.0.0.0:0").unwrap();
        assert_eq!(tunnel.keys["host"], "me@mahuika:2222");
        assert_eq!(
            tunnel.disabled["subnets"],
            json!(["192.168.0.0/16", "0.0.0.0/0"])
        );
        assert_eq!(tunnel.disabled["subnets_exclude"], json!(["10.0.0.0/8"]));
        assert_eq!(tunnel.disabled["subnets_dns"], true);
        assert!(!format!("{tunnel:?}").contains("secret"));
        assert!(line("10.0.0.0/8").is_err());
        assert!(line("-r").is_err());
    }

    #[test]
    fn the_ssh_command_brings_its_flags() {
        let words = ["-r", "h", "-e", "ssh -i /k -p 22", "10.0.0.0/8"].map(str::to_owned);
        let tunnel = tunnel(&words, None).unwrap();
        assert_eq!(
            serde_json::Value::Object(tunnel.keys),
            json!({"host": "h", "port": 22, "identity_file": ["/k"]})
        );
    }
}
