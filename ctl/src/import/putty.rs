//! PuTTY's sessions: an export of the registry (`.reg`), and the files of `~/.putty/sessions`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Import, ImportedTunnel};
use crate::exit::Exit;

/// The values of one session, by PuTTY's names; numbers are decimal text.
type Session = BTreeMap<String, String>;

const SESSIONS: &str = "\\Software\\SimonTatham\\PuTTY\\Sessions\\";

/// Reads an export of the registry.
///
/// # Errors
/// The text is not such an export, or has no session of PuTTY.
pub(crate) fn read_registry(text: &str) -> Result<Import, Exit> {
    let mut sessions: Vec<(String, Session)> = Vec::new();
    // Only the lines below a session's header count.
    let mut inside = false;
    for line in joined_lines(text) {
        if let Some(key) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            // KiTTY and other forks have a key of their own with the same values.
            let name = key
                .split_once(SESSIONS)
                .map(|(_, name)| name)
                .filter(|name| !name.contains('\\'));
            inside = name.is_some();
            if let Some(name) = name {
                sessions.push((unescape_name(name), Session::new()));
            }
        } else if inside
            && let (Some((key, value)), Some((_, session))) =
                (registry_value(&line), sessions.last_mut())
        {
            session.insert(key, value);
        }
    }
    if sessions.is_empty() {
        return Err(Exit::usage("the file has no session of PuTTY").hint(
            "export them on Windows: reg export HKCU\\Software\\SimonTatham\\PuTTY\\Sessions putty.reg",
        ));
    }
    let mut import = Import::default();
    for (name, session) in sessions {
        add(&mut import, &name, &session);
    }
    Ok(import)
}

/// Adds the session of one file of `~/.putty/sessions`, whose name is `file`.
///
/// # Errors
/// The text is not such a file.
pub(crate) fn read_session(import: &mut Import, file: &str, text: &str) -> Result<(), Exit> {
    let pair = |line: &str| {
        let (key, value) = line.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    let session: Session = text.lines().filter_map(pair).collect();
    if !session.contains_key("HostName") && !session.contains_key("Protocol") {
        return Err(Exit::usage(format!("{file} is not a session of PuTTY"))
            .hint("give a file of ~/.putty/sessions, the folder itself, or an export of the registry (.reg)"));
    }
    add(import, &unescape_name(file), &session);
    Ok(())
}

/// Lines without the line breaks inside of long values (`\` at the end).
fn joined_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let line = line.trim_end_matches('\r');
        // A text value may end in a backslash only inside of its quotes.
        let continues = line.ends_with('\\') && !line.contains("=\"");
        let part = line.trim_end_matches('\\');
        match lines.last_mut().filter(|_| open) {
            Some(last) => last.push_str(part.trim_start()),
            None => lines.push(if continues { part } else { line }.to_owned()),
        }
        open = continues;
    }
    lines
}

/// `"Name"="text"` or `"Name"=dword:0000001f`.
fn registry_value(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix('"')?.split_once("\"=")?;
    if let Some(number) = value.strip_prefix("dword:") {
        let number = u32::from_str_radix(number.trim(), 16).ok()?;
        return Some((name.to_owned(), number.to_string()));
    }
    let text = value.trim_end().strip_prefix('"')?.strip_suffix('"')?;
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next()? } else { c });
    }
    Some((name.to_owned(), plain))
}

/// Decodes `%20` and the like, with which PuTTY writes the names of sessions.
fn unescape_name(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = behind
            .get(..2)
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn add(import: &mut Import, name: &str, session: &Session) {
    let get = |key: &str| session.get(key).map_or("", String::as_str);
    let host = get("HostName");
    if host.is_empty() {
        return;
    }
    if !matches!(get("Protocol"), "ssh" | "") {
        import.note(format!(
            "left out: the session {name} is not an SSH session"
        ));
        return;
    }
    if get("PortForwardings").is_empty() {
        import.note(format!(
            "left out: the session {name} has no forwards (Connection, SSH, Tunnels)"
        ));
        return;
    }
    let mut tunnel = ImportedTunnel::new(name);
    tunnel.set("host", host);
    if !get("UserName").is_empty() && !host.contains('@') {
        tunnel.set("user", get("UserName"));
    }
    match get("PortNumber").parse::<u16>() {
        Ok(22 | 0) | Err(_) => {}
        Ok(port) => tunnel.set("port", port),
    }
    if !get("PublicKeyFile").is_empty() {
        tunnel.set_identity(get("PublicKeyFile"));
    }
    settings(&mut tunnel, &get);
    proxy(&mut tunnel, &get);
    forwards(&mut tunnel, get("PortForwardings"));
    import.push(tunnel);
}

fn settings<'a>(tunnel: &mut ImportedTunnel, get: &impl Fn(&str) -> &'a str) {
    if get("Compression") == "1" {
        tunnel.set("compression", true);
    }
    if get("LocalPortAcceptAll") == "1" {
        tunnel.set("gateway_ports", true);
    }
    match get("AddressFamily") {
        "1" => tunnel.set("address_family", "inet"),
        "2" => tunnel.set("address_family", "inet6"),
        _ => {}
    }
    // Minutes and seconds are two values.
    let number = |key| get(key).parse::<u64>().unwrap_or(0);
    let seconds = number("PingInterval")
        .saturating_mul(60)
        .saturating_add(number("PingIntervalSecs"));
    if (1..=86_400).contains(&seconds) {
        tunnel.set("server_alive_interval", format!("{seconds}s"));
    }
    if !get("RemoteCommand").is_empty() {
        tunnel.note("the session's remote command is left out: a tunnel runs no command");
    }
}

fn proxy<'a>(tunnel: &mut ImportedTunnel, get: &impl Fn(&str) -> &'a str) {
    let (host, port, user) = (get("ProxyHost"), get("ProxyPort"), get("ProxyUsername"));
    match get("ProxyMethod") {
        "" | "0" => return,
        // A login at another SSH server, which forwards the connection.
        "6" => {
            let user = if user.is_empty() {
                String::new()
            } else {
                format!("{user}@")
            };
            let port = if matches!(port, "" | "22") {
                String::new()
            } else {
                format!(":{port}")
            };
            tunnel.set("proxy_jump", format!("{user}{host}{port}"));
        }
        "5" => {
            let command = get("ProxyTelnetCommand")
                .replace("%host", "%h")
                .replace("%port", "%p");
            tunnel.set("proxy_command", command.trim_end_matches("\\n"));
        }
        method => {
            let kind = match method {
                "1" | "2" => "SOCKS",
                "3" => "HTTP",
                _ => "other",
            };
            tunnel.note(format!("the session's {kind} proxy {host}:{port} is not carried over: use proxy_command, such as nc -X"));
        }
    }
    if !get("ProxyPassword").is_empty() {
        tunnel.note_password("the proxy of the session");
    }
}

/// `L8088=localhost:8088,D8157=,4R127.0.0.1:80=web:80`; a dynamic forward is also written as `L8157=D`.
fn forwards(tunnel: &mut ImportedTunnel, text: &str) {
    let mut lists: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (source, target) = part.split_once('=').unwrap_or((part, ""));
        let source = source.trim_start_matches(['4', '6']);
        let mut chars = source.chars();
        let kind = chars.next().unwrap_or_default();
        let listen = chars.as_str();
        let valid = !listen.is_empty() && !part.contains(char::is_whitespace);
        let (key, value) = match (kind, target) {
            ('D', _) | ('L', "D") => ("dynamic_forward", listen.to_owned()),
            ('L', target) if !target.is_empty() => ("local_forward", format!("{listen} {target}")),
            ('R', target) if !target.is_empty() => ("remote_forward", format!("{listen} {target}")),
            _ => ("", String::new()),
        };
        if key.is_empty() || !valid {
            tunnel.note(format!("not carried over: the forward {part}"));
        } else {
            lists.entry(key).or_default().push(value.into());
        }
    }
    for (key, list) in lists {
        tunnel.set(key, list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const REG: &str = r#"Windows Registry Editor Version 5.00

[HKEY_CURRENT_USER\Software\SimonTatham\PuTTY\Sessions]

[HKEY_CURRENT_USER\Software\SimonTatham\PuTTY\Sessions\Default%20Settings]
"HostName"=""

[HKEY_CURRENT_USER\Software\SimonTatham\PuTTY\Sessions\EMR%20%2dmaster]
"HostName"="hadoop@ec2-198-51-100-7.compute-1.amazonaws.com"
"Protocol"="ssh"
"PortNumber"=dword:000008ae
"PublicKeyFile"="C:\\Users\\me\\key.ppk"
"PortForwardings"="L8088=localhost:8088,D8157=,4R9000=web:80,L1081=D,Lx"
"PingIntervalSecs"=dword:0000001e
"Compression"=dword:00000001
"ProxyMethod"=dword:00000005
"ProxyTelnetCommand"="nc %host %port"
"ProxyPassword"="secret"
"Wordness0"="0,0,\
  0,0"

[HKEY_CURRENT_USER\Software\SimonTatham\PuTTY\Sessions\serial]
"HostName"="x"
"Protocol"="serial"

[HKEY_CURRENT_USER\Software\SimonTatham\PuTTY\Sessions\shell]
"HostName"="h"
"Protocol"="ssh"

[HKEY_CURRENT_USER\Software\SimonTatham\PuTTY\SshHostKeys]
"HostName"="not a session"
"#;

    #[test]
    fn sessions_with_forwards_come_over() {
        let import = read_registry(&REG.replace('\n', "\r\n")).unwrap();
        assert_eq!(import.tunnels.len(), 1, "{import:?}");
        let tunnel = &import.tunnels[0];
        assert_eq!(tunnel.name, "EMR--master");
        let mut expected = json!({
            "host": "hadoop@ec2-198-51-100-7.compute-1.amazonaws.com", "port": 2222, "compression": true,
            "server_alive_interval": "30s", "local_forward": ["8088 localhost:8088"],
            "dynamic_forward": ["8157", "1081"], "remote_forward": ["9000 web:80"],
        });
        if cfg!(windows) {
            expected["identity_file"] = json!("C:\\Users\\me\\key.ppk");
        } else {
            assert_eq!(tunnel.disabled["identity_file"], "C:\\Users\\me\\key.ppk");
        }
        assert_eq!(Value::Object(tunnel.keys.clone()), expected);
        assert_eq!(tunnel.disabled["proxy_command"], "nc %h %p");
        assert!(!format!("{import:?}").contains("secret"));
        assert!(
            tunnel
                .notes
                .iter()
                .any(|note| note == "not carried over: the forward Lx")
        );
        assert_eq!(import.notes.len(), 2, "{:?}", import.notes);
    }

    #[test]
    fn a_file_of_unix_is_one_session() {
        let mut import = Import::default();
        let text = "Present=1\nHostName=h\nProtocol=ssh\nPortNumber=22\nUserName=me\nPortForwardings=D8157=,\n\
                    ProxyMethod=6\nProxyHost=jump\nProxyPort=2200\nProxyUsername=you\n";
        read_session(&mut import, "my%20emr", text).unwrap();
        assert_eq!(
            Value::Object(import.tunnels[0].keys.clone()),
            json!({"host": "h", "user": "me", "dynamic_forward": ["8157"], "proxy_jump": "you@jump:2200"})
        );
        assert_eq!(import.tunnels[0].name, "my-emr");
    }

    #[test]
    fn files_of_something_else_are_one_error() {
        for text in [
            "",
            "REGEDIT4\n",
            "[HKEY_CURRENT_USER\\Software\\Other]\n\"HostName\"=\"x\"\n",
            "\"\"\n[",
            "\\\\\\",
        ] {
            let exit = read_registry(text).unwrap_err();
            assert!(exit.message.unwrap().contains("no session of PuTTY"));
        }
        assert!(read_session(&mut Import::default(), "x", "PNG").is_err());
    }

    #[test]
    fn damaged_values_are_left_out() {
        for line in [
            "\"a",
            "\"a\"=",
            "\"a\"=\"b",
            "\"a\"=dword:xyz",
            "\"a\"=\"b\\\"",
            "a=b",
        ] {
            assert_eq!(registry_value(line), None, "{line}");
        }
        assert_eq!(unescape_name("%"), "%");
        assert_eq!(unescape_name("%zz%2"), "%zz%2");
        assert_eq!(unescape_name("%41"), "A");
    }
}
