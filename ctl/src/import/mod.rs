//! Reads what other programs saved (ssh_config, PuTTY, MobaXterm, FoxyProxy, SwitchyOmega, systemd, launchd, command
//! lines) and makes `[tunnel.NAME]` of it. One reader per file; each is pure and gets the text of the file. `source` reads
//! files, `toml_text` writes the result.

pub(crate) mod command_line;
pub(crate) mod decode;
pub(crate) mod foxyproxy;
mod host_regex;
pub(crate) mod launchd;
pub(crate) mod mobaxterm;
pub(crate) mod proxy_rules;
pub(crate) mod putty;
mod rule_list;
mod rule_subject;
mod shell_words;
pub(crate) mod source;
mod ssh_arguments;
pub(crate) mod ssh_config;
mod sshuttle;
pub(crate) mod switchyomega;
pub(crate) mod toml_text;
pub(crate) mod unit;
mod url_rule;
mod url_samples;
mod xml;

use serde_json::{Map, Value};
use tunneld_proto::text::is_unsafe;
use tunneld_toml::name::check_name;

/// The most tunnels that one import makes: tunneld reads as many in one file.
pub(crate) const MAX_TUNNELS: usize = 1024;

/// The most lines of comment above a tunnel, or above all of them.
const MAX_NOTES: usize = 500;

/// Keys whose values are programs that tunneld would run. A file from elsewhere must not bring them in unseen.
const PROGRAM_KEYS: &[&str] = &[
    "answers",
    "before_connect",
    "forward_command",
    "forward_stdio",
    "host_command",
    "known_hosts_command",
    "on_down",
    "on_needs_input",
    "on_up",
    "passphrase_command",
    "password_command",
    "proxy_command",
    "proxy_password_command",
    "proxy_user_password_command",
    "target_command",
];

/// Everything that one file or command line gave.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Import {
    pub(crate) tunnels: Vec<ImportedTunnel>,
    /// What could not be carried over and belongs to none of the tunnels; a line each.
    pub(crate) notes: Vec<String>,
}

impl Import {
    /// Adds a tunnel and makes its name unique within the import.
    pub(crate) fn push(&mut self, mut tunnel: ImportedTunnel) {
        if self.tunnels.len() >= MAX_TUNNELS {
            let note = format!("only the first {MAX_TUNNELS} tunnels are imported");
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
            return;
        }
        let base = tunnel.name.clone();
        let mut number = 2;
        // Compared without case, because each name may become a file on a system that ignores case.
        while self
            .tunnels
            .iter()
            .any(|other| other.name.eq_ignore_ascii_case(&tunnel.name))
        {
            let short: String = base.chars().take(58).collect();
            tunnel.name = format!("{short}-{number}");
            number += 1;
        }
        self.tunnels.push(tunnel);
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        add_note(&mut self.notes, text.into());
    }
}

/// One `[tunnel.NAME]`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ImportedTunnel {
    pub(crate) name: String,
    pub(crate) keys: Map<String, Value>,
    /// Keys that are written as comments: they run programs, or only the user can complete them.
    pub(crate) disabled: Map<String, Value>,
    /// Why the tunnel cannot work before the user completes it; it does not start by itself then.
    pub(crate) incomplete: Option<&'static str>,
    /// Lines of comment above the table.
    pub(crate) notes: Vec<String>,
}

impl ImportedTunnel {
    /// Makes a tunnel without keys; its name is made valid.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: valid_name(name),
            ..Self::default()
        }
    }

    /// Sets a key; one that runs a program is written as a comment, and a value that cannot be shown is left out.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        if !is_plain(&value) {
            self.note(format!(
                "{key} is left out: its value has characters that cannot be shown"
            ));
        } else if PROGRAM_KEYS.contains(&key) {
            self.note(format!(
                "{key} runs a program: remove its # after you have read it"
            ));
            self.disable(key, value);
        } else {
            self.keys.insert(key.to_owned(), value);
        }
    }

    /// Writes a key as a comment.
    pub(crate) fn disable(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        if is_plain(&value) {
            self.disabled.insert(key.to_owned(), value);
        }
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        add_note(&mut self.notes, text.into());
    }

    /// Sets the file of a private key. A path of another system is written as a comment, because no file is there.
    pub(crate) fn set_identity(&mut self, file: &str) {
        let foreign = file.contains('\\') || file.as_bytes().get(1) == Some(&b':');
        if foreign && !cfg!(windows) {
            self.disable("identity_file", file);
            self.note("identity_file is a path of Windows: copy the key to this machine and write its path here");
        } else {
            self.set("identity_file", file);
        }
    }

    /// Notes that the file had a password, which is never copied.
    pub(crate) fn note_password(&mut self, whose: &str) {
        self.note(format!(
            "{whose} has a password, which is not copied; if it is the login's, keep it in a password manager:"
        ));
        self.note("password_command = [\"pass\", \"show\", \"ENTRY\"]");
    }
}

/// Adds a line once, and a last one if there are too many.
fn add_note(notes: &mut Vec<String>, text: String) {
    match notes.len() {
        0..MAX_NOTES if !notes.contains(&text) => notes.push(text),
        MAX_NOTES => notes.push("and more, which is not listed".to_owned()),
        _ => {}
    }
}

/// Whether every text in the value can be shown in a terminal and an editor as it is.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.chars().any(is_unsafe),
        Value::Array(items) => items.iter().all(is_plain),
        _ => true,
    }
}

/// Makes a valid tunnel name of any text; `tunnel` if nothing of it is left.
pub(crate) fn valid_name(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = text.trim().chars().map(plain).take(64).collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    if check_name(&name).is_ok() {
        name
    } else {
        "tunnel".to_owned()
    }
}

/// Whether the host is this machine, where a browser's proxy for a tunnel listens.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Whether the name of the file matches the wildcard; hidden files only if it begins with a dot, as in a shell.
pub(crate) fn is_like(wildcard: &str, path: &std::path::Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    (wildcard.starts_with('.') || !name.starts_with('.'))
        && url_rule::glob_matches(wildcard.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_becomes_a_valid_name_that_is_unique() {
        for (text, name) in [
            ("emr socks", "emr-socks"),
            ("../x", "x"),
            ("한글", "tunnel"),
            ("", "tunnel"),
            ("-a\n", "a"),
            (&"x".repeat(100), &"x".repeat(64)),
        ] {
            assert_eq!(valid_name(text), name);
        }
        let mut import = Import::default();
        for name in ["db", "DB", "db", &"x".repeat(64), &"x".repeat(64)] {
            import.push(ImportedTunnel::new(name));
        }
        let names: Vec<_> = import
            .tunnels
            .iter()
            .map(|tunnel| tunnel.name.as_str())
            .collect();
        let long = "x".repeat(64);
        let cut = format!("{}-2", "x".repeat(58));
        assert_eq!(names, ["db", "DB-2", "db-3", &long, &cut]);
    }

    #[test]
    fn programs_and_hidden_characters_do_not_become_keys() {
        let mut tunnel = ImportedTunnel::new("db");
        tunnel.set("proxy_command", "nc %h %p");
        tunnel.set("host", "a\u{202e}b");
        tunnel.set("port", 22);
        assert_eq!(tunnel.keys.keys().collect::<Vec<_>>(), ["port"]);
        assert_eq!(
            tunnel.disabled.keys().collect::<Vec<_>>(),
            ["proxy_command"]
        );
    }

    #[test]
    fn every_key_of_the_manual_that_runs_a_program_is_written_as_a_comment() {
        let manual = include_str!("../../../docs/configuration.md");
        let rows = manual.lines().filter_map(|line| line.strip_prefix("| `"));
        let keys: Vec<&str> = rows
            .filter_map(|row| {
                let (key, rest) = row.split_once("` |")?;
                let form = rest.split('|').next()?;
                (form.contains("command") || key.ends_with("_command")).then_some(key)
            })
            .collect();
        assert!(keys.len() >= 7, "{keys:?}");
        for key in keys {
            assert!(PROGRAM_KEYS.contains(&key), "{key}");
        }
    }

    /// Every beginning of a file, and every file with one byte changed, is read or refused.
    #[test]
    fn damaged_files_never_panic() {
        let emr = include_str!("foxyproxy/emr.xml");
        let omega = r#"{"+a":{"profileType":"FixedProfile","name":"a","fallbackProxy":{"scheme":"socks5","host":"::1","port":1}},"+b":{"profileType":"SwitchProfile","rules":[{"condition":{"conditionType":"UrlRegexCondition","pattern":"^https?://(.*\\.)?a\\.b/"},"profileName":"a"}]}}"#;
        let registry = "[HKEY_CURRENT_USER\\Software\\SimonTatham\\PuTTY\\Sessions\\a%20b]\n\"HostName\"=\"h\"\n\"PortNumber\"=dword:16\n\"PortForwardings\"=\"L1=a:1,4D2=,\"\n";
        let moba = "[Bookmarks]\na=#109#0%h%22%u%%-1%-1%%j%22%y%0%0%0%k%#x\n";
        let unit =
            "[Service]\nEnvironment=\"A=b\"\nExecStart=-/usr/bin/ssh -NL 1:a:2 \"${A}\" %h %i\n";
        let hosts = "Host a \"b c\" !d\n LocalForward 1 a:1\nMatch host x\nInclude y\n";
        let check = |text: &str| {
            let _ = foxyproxy::read(text);
            let _ = switchyomega::read(text);
            let _ = putty::read_registry(text);
            let _ = mobaxterm::read(text);
            let _ = unit::read(text, "a@b.service");
            let _ = launchd::read(text);
            let _ = ssh_config::read(text, None, &mut |_| Vec::new());
            let _ = command_line::read(&[text.to_owned()], None);
        };
        for text in [&emr[..1500], omega, registry, moba, unit, hosts] {
            for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
                check(&text[..at]);
                let mut bytes = text.as_bytes().to_vec();
                for byte in [b'"', b'%', b'\\', b'<', 0xc3] {
                    bytes[at] = byte;
                    if let Ok(text) = decode::decode(&bytes, decode::Fallback::Windows1252) {
                        // One of the readers is enough for each change.
                        let _ = match byte {
                            b'<' => foxyproxy::read(&text).map(drop),
                            b'%' => putty::read_registry(&text).map(drop),
                            b'\\' => unit::read(&text, "u").map(drop),
                            _ => switchyomega::read(&text).map(drop),
                        };
                    }
                }
            }
        }
    }
}
