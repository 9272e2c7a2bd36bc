//! `-o Key=Value`: translates keywords of ssh_config to keys of `[tunnel.NAME]`.

mod keywords;

use std::path::Path;

use serde_json::{Map, Value};

use crate::exit::Exit;
use keywords::Form::{FileList, FileOrFlag, Files, Flag, Number, Text, Texts};
use keywords::{Found, find};

/// Collects the keys of a new tunnel.
pub(crate) struct Spec<'a> {
    keys: Map<String, Value>,
    notes: Vec<String>,
    cwd: Option<&'a Path>,
}

impl<'a> Spec<'a> {
    /// Makes an empty set of keys. Relative file names are resolved against `cwd`, because the daemon has another one.
    pub(crate) fn new(cwd: Option<&'a Path>) -> Self {
        Self {
            keys: Map::new(),
            notes: Vec::new(),
            cwd,
        }
    }

    /// Returns the keys, and one note per option that tunneld does not support.
    pub(crate) fn into_parts(self) -> (Map<String, Value>, Vec<String>) {
        (self.keys, self.notes)
    }

    /// Expands `%h` in the host name to `host`: only the command line knows the destination as it was typed.
    pub(crate) fn expand_host_name(&mut self, host: &str) {
        if let Some(Value::String(name)) = self.keys.get_mut("host_name") {
            let parts: Vec<String> = name
                .split("%%")
                .map(|part| part.replace("%h", host))
                .collect();
            *name = parts.join("%");
        }
    }

    /// Sets a key unless it is set already: as in ssh, the first value counts.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        if !self.keys.contains_key(key) {
            self.keys.insert(key.to_owned(), value);
        }
    }

    /// Appends `value` to the list of a key.
    pub(crate) fn push(&mut self, key: &str, value: &str) {
        let list = self
            .keys
            .entry(key)
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(value.into());
        }
    }

    /// Appends a file name to the list of a key.
    pub(crate) fn push_path(&mut self, key: &str, file: &str) {
        let path = self.absolute(file);
        self.push(key, &path);
    }

    fn absolute(&self, file: &str) -> String {
        let kept = file == "none" || file.starts_with(['~', '%', '$']);
        match self.cwd {
            Some(cwd) if !kept && Path::new(file).is_relative() => {
                cwd.join(file).display().to_string()
            }
            _ => file.to_owned(),
        }
    }

    /// Applies one `-o`: `Key=Value` or `Key Value`; the case of the key does not matter.
    pub(crate) fn option(&mut self, text: &str) -> Result<(), Exit> {
        let separator = |c: char| c == '=' || c.is_whitespace();
        let (keyword, value) = text.trim_start().split_once(separator).ok_or_else(|| {
            Exit::usage(format!("-o {text}: the value is missing")).hint("write -o Key=Value")
        })?;
        let value = value.trim_start_matches(separator).trim_end();
        let found = find(keyword)?;
        if value.is_empty() {
            return Err(
                Exit::usage(format!("-o {text}: the value is missing")).hint("write -o Key=Value")
            );
        }
        let (key, form) = match found {
            Found::Key(key, form) => (key, form),
            // As in ssh_config: a pasted command line must not fail for an option without meaning here.
            Found::Ignored => return Ok(()),
            Found::Unsupported(harmless, instead) => {
                if !harmless
                    .iter()
                    .any(|harmless| harmless.eq_ignore_ascii_case(value))
                {
                    self.notes
                        .push(format!("-o {} is not supported: {instead}", text.trim()));
                }
                return Ok(());
            }
        };
        match form {
            // Text is not checked here: the daemon knows the grammar of each key.
            Text => self.set(key, value.into()),
            Flag => self.set(key, flag(value)),
            Number => self.set(key, number(value)),
            Texts => self.push(key, value),
            Files => self.push_path(key, value),
            FileOrFlag => match flag(value) {
                Value::String(file) => {
                    let path = self.absolute(&file);
                    self.set(key, path.into());
                }
                flag => self.set(key, flag),
            },
            FileList if self.keys.contains_key(key) => {}
            FileList => {
                for file in value.split_whitespace() {
                    self.push_path(key, file);
                }
            }
        }
        Ok(())
    }
}

/// Parses yes or no. Any other text is passed on: the error of the daemon says what the key accepts.
fn flag(value: &str) -> Value {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" => true.into(),
        "no" | "false" => false.into(),
        _ => value.into(),
    }
}

fn number(value: &str) -> Value {
    value
        .parse::<u64>()
        .map_or_else(|_| value.into(), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(options: &[&str]) -> Result<Value, Exit> {
        let mut spec = Spec::new(Some(Path::new("/here")));
        for option in options {
            spec.option(option)?;
        }
        Ok(Value::Object(spec.into_parts().0))
    }

    fn here(file: &str) -> String {
        Path::new("/here").join(file).display().to_string()
    }

    #[test]
    fn keywords_become_keys_in_any_case_and_form() {
        let got = spec(&[
            "serveraliveinterval=15",
            "Port 2222",
            "TCPKeepAlive = no",
            "MACs=+hmac-sha2-256",
            "LocalForward=1 a:2",
            "LocalForward=3 b:4",
            "IdentityFile=k",
            "IdentityFile=none",
            "UserKnownHostsFile=~/a b",
            "hold=10s",
            "StrictHostKeyChecking=no",
            "Compression=maybe",
            "exit_on_forward_failure=yes",
        ]);
        assert_eq!(
            got.unwrap(),
            json!({
                "server_alive_interval": "15", "port": 2222, "tcp_keep_alive": false, "macs": "+hmac-sha2-256",
                "local_forward": ["1 a:2", "3 b:4"], "identity_file": [here("k"), "none"],
                "user_known_hosts_file": ["~/a", here("b")], "hold": "10s", "strict_host_key_checking": "no",
                "compression": "maybe", "exit_on_forward_failure": true,
            })
        );
    }

    #[test]
    fn the_first_value_of_a_key_counts() {
        assert_eq!(spec(&["User=a", "User=b"]).unwrap(), json!({"user": "a"}));
    }

    #[test]
    fn an_unknown_keyword_is_a_usage_error_with_a_suggestion() {
        let err = spec(&["ServerAliveIntervall=3"]).unwrap_err();
        assert_eq!(
            (err.code, err.hint.as_deref()),
            (2, Some("did you mean ServerAliveInterval?"))
        );
        assert!(
            spec(&["Host=x"])
                .unwrap_err()
                .hint
                .unwrap()
                .contains("destination")
        );
        for bad in [
            "Port",
            "Port=",
            "=3",
            "",
            "BatchMode",
            "LogLevel=",
            "Tunnel ",
        ] {
            assert_eq!(spec(&[bad]).unwrap_err().code, 2, "{bad}");
        }
    }

    #[test]
    fn aliases_of_ssh_and_own_keys_are_accepted() {
        let got = spec(&[
            "ChallengeResponseAuthentication=no",
            "pubkeyacceptedkeytypes +ssh-rsa",
            "ssh_config=f",
        ]);
        assert_eq!(
            got.unwrap(),
            json!({"kbd_interactive_authentication": false, "pubkey_accepted_algorithms": "+ssh-rsa",
                "ssh_config": here("f")})
        );
        assert_eq!(
            spec(&["ssh_config=no"]).unwrap(),
            json!({"ssh_config": false})
        );
    }

    #[test]
    fn an_unsupported_option_is_noted_unless_its_value_is_harmless() {
        let mut spec = Spec::new(None);
        for option in ["GSSAPIAuthentication=no", "Tunnel=NO", "BatchMode=yes"] {
            spec.option(option).unwrap();
        }
        assert_eq!(spec.notes, Vec::<String>::new());
        spec.option("GSSAPIAuthentication=yes").unwrap();
        let (keys, notes) = spec.into_parts();
        assert!(keys.is_empty());
        assert_eq!(
            notes,
            ["-o GSSAPIAuthentication=yes is not supported: tunneld logs in without Kerberos"]
        );
    }
}
