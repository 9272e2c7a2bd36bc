//! `-o Key=Value`: ssh_config's keywords, and the keys of `[tunnel.NAME]` that they become.

use std::path::Path;

use serde_json::{Map, Value};

use crate::exit::Exit;

/// The form of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A string.
    Text,
    /// yes or no.
    Flag,
    /// A whole number.
    Number,
    /// Strings; the keyword may stand more than once.
    Texts,
    /// As `Texts`, and files.
    Files,
    /// Files, blank-separated; the keyword counts once.
    FileList,
}

use Form::{FileList, Files, Flag, Number, Text, Texts};

/// ssh_config's keywords, then tunneld's own keys, which ssh has no word for.
const KEYS: &[(&str, &str, Form)] = &[
    ("User", "user", Text),
    ("Port", "port", Number),
    ("AddressFamily", "address_family", Text),
    ("BindAddress", "bind_address", Text),
    ("BindInterface", "bind_interface", Text),
    ("ConnectTimeout", "connect_timeout", Text),
    ("ProxyJump", "proxy_jump", Text),
    ("ProxyCommand", "proxy_command", Text),
    ("IdentityFile", "identity_file", Files),
    ("IdentitiesOnly", "identities_only", Flag),
    ("IdentityAgent", "identity_agent", Text),
    ("CertificateFile", "certificate_file", Files),
    ("AddKeysToAgent", "add_keys_to_agent", Text),
    (
        "PreferredAuthentications",
        "preferred_authentications",
        Text,
    ),
    ("PubkeyAuthentication", "pubkey_authentication", Flag),
    ("PasswordAuthentication", "password_authentication", Flag),
    (
        "KbdInteractiveAuthentication",
        "kbd_interactive_authentication",
        Flag,
    ),
    (
        "PubkeyAcceptedAlgorithms",
        "pubkey_accepted_algorithms",
        Text,
    ),
    (
        "NumberOfPasswordPrompts",
        "number_of_password_prompts",
        Number,
    ),
    ("StrictHostKeyChecking", "strict_host_key_checking", Text),
    ("UserKnownHostsFile", "user_known_hosts_file", FileList),
    ("GlobalKnownHostsFile", "global_known_hosts_file", FileList),
    ("RevokedHostKeys", "revoked_host_keys", FileList),
    ("KnownHostsCommand", "known_hosts_command", Text),
    ("HostKeyAlias", "host_key_alias", Text),
    ("HostKeyAlgorithms", "host_key_algorithms", Text),
    ("HashKnownHosts", "hash_known_hosts", Flag),
    ("UpdateHostKeys", "update_host_keys", Text),
    ("Ciphers", "ciphers", Text),
    ("MACs", "macs", Text),
    ("KexAlgorithms", "kex_algorithms", Text),
    ("Compression", "compression", Flag),
    ("RekeyLimit", "rekey_limit", Text),
    ("ServerAliveInterval", "server_alive_interval", Text),
    ("ServerAliveCountMax", "server_alive_count_max", Number),
    ("TCPKeepAlive", "tcp_keep_alive", Flag),
    ("LocalForward", "local_forward", Texts),
    ("RemoteForward", "remote_forward", Texts),
    ("DynamicForward", "dynamic_forward", Texts),
    ("ClearAllForwardings", "clear_all_forwardings", Flag),
    ("GatewayPorts", "gateway_ports", Flag),
    ("ExitOnForwardFailure", "exit_on_forward_failure", Flag),
    ("StreamLocalBindUnlink", "stream_local_bind_unlink", Flag),
    ("StreamLocalBindMask", "stream_local_bind_mask", Text),
    ("PermitRemoteOpen", "permit_remote_open", Text),
    ("", "ssh_config", Text),
    ("", "autostart", Flag),
    ("", "on_demand", Flag),
    ("", "idle_timeout", Text),
    ("", "hold", Text),
    ("", "sessions", Number),
    ("", "description", Text),
    ("", "tags", Texts),
    ("", "proxy_for", Texts),
];

/// The keys of one tunnel in the making.
pub(crate) struct Spec<'a> {
    keys: Map<String, Value>,
    cwd: Option<&'a Path>,
}

impl<'a> Spec<'a> {
    /// No keys yet; relative files are taken from `cwd`, for the daemon has another.
    pub(crate) fn new(cwd: Option<&'a Path>) -> Self {
        Self {
            keys: Map::new(),
            cwd,
        }
    }

    /// The keys.
    pub(crate) fn into_keys(self) -> Map<String, Value> {
        self.keys
    }

    /// Sets a key unless it is set: as in ssh, the first word counts.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        if !self.keys.contains_key(key) {
            self.keys.insert(key.to_owned(), value);
        }
    }

    /// Adds to a list.
    pub(crate) fn push(&mut self, key: &str, value: &str) {
        let list = self
            .keys
            .entry(key)
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(value.into());
        }
    }

    /// Adds a file to a list.
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

    /// Takes one `-o`: `Key=Value` or `Key Value`, the key in any case.
    pub(crate) fn option(&mut self, text: &str) -> Result<(), Exit> {
        let separator = |c: char| c == '=' || c.is_whitespace();
        let (keyword, value) = text.trim_start().split_once(separator).ok_or_else(|| {
            Exit::usage(format!("-o {text}: the value is missing")).hint("write -o Key=Value")
        })?;
        let value = value.trim_start_matches(separator).trim_end();
        let (key, form) = find(keyword)?;
        if value.is_empty() {
            return Err(
                Exit::usage(format!("-o {text}: the value is missing")).hint("write -o Key=Value")
            );
        }
        match form {
            Text => self.set(key, value.into()),
            Flag => self.set(key, flag(value)),
            Number => self.set(key, number(value)),
            Texts => self.push(key, value),
            Files => self.push_path(key, value),
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

/// What is neither yes nor no is left to the daemon, whose error says what the key takes.
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

fn find(keyword: &str) -> Result<(&'static str, Form), Exit> {
    let known = !keyword.is_empty();
    let found = KEYS.iter().find(|(ssh, own, _)| {
        known && (keyword.eq_ignore_ascii_case(ssh) || keyword.eq_ignore_ascii_case(own))
    });
    if let Some((_, key, form)) = found {
        return Ok((key, *form));
    }
    let error = Exit::usage(format!("-o {keyword}: tunneld knows no such option"));
    if keyword.eq_ignore_ascii_case("hostname") || keyword.eq_ignore_ascii_case("host") {
        return Err(error.hint("the host is the destination, the last word of the command"));
    }
    let lower = keyword.to_ascii_lowercase();
    let words = KEYS
        .iter()
        .map(|(ssh, own, _)| if ssh.is_empty() { own } else { ssh });
    let nearest = words
        .map(|word| {
            (
                strsim::jaro_winkler(&lower, &word.to_ascii_lowercase()),
                word,
            )
        })
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    Err(match nearest {
        Some((near, word)) if near > 0.8 => error.hint(format!("did you mean {word}?")),
        _ => error.hint("tunneld takes the options of ssh_config that are about reaching, trusting and forwarding"),
    })
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
        Ok(Value::Object(spec.into_keys()))
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
    fn the_first_word_counts() {
        assert_eq!(spec(&["User=a", "User=b"]).unwrap(), json!({"user": "a"}));
    }

    #[test]
    fn an_unknown_keyword_is_a_usage_error_that_guesses() {
        let err = spec(&["ServerAliveIntervall=3"]).unwrap_err();
        assert_eq!(
            (err.code, err.hint.as_deref()),
            (2, Some("did you mean ServerAliveInterval?"))
        );
        assert!(
            spec(&["HostName=x"])
                .unwrap_err()
                .hint
                .unwrap()
                .contains("destination")
        );
        for bad in ["Port", "Port=", "=3", ""] {
            assert_eq!(spec(&[bad]).unwrap_err().code, 2, "{bad}");
        }
    }

    #[test]
    fn every_key_is_its_keyword_in_snake_case() {
        for (ssh, own, _) in KEYS {
            if !ssh.is_empty() {
                assert_eq!(ssh.to_ascii_lowercase(), own.replace('_', ""));
            }
        }
    }
}
