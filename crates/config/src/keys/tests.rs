//! The key table against everything that must agree with it: the parser, the diff, ssh_config's keywords, the
//! documentation and tunnelctl's `-o` list.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use tunneld_platform::program::{Limits, ProgramFuture, ProgramOutput, RunProgram};

use super::*;
use crate::diff::{Change, diff};
use crate::load::Loaded;
use crate::load::tests::{Dir, now};
use crate::{Env, Loader};

/// Per key: two different values as TOML, and what else the table must contain so that the difference shows.
const SAMPLES: &[(&str, &str, &str, &str)] = &[
    ("host", r#""a""#, r#""b""#, ""),
    ("host_name", r#""a""#, r#""b""#, ""),
    ("user", r#""a""#, r#""b""#, ""),
    ("port", "1", "2", ""),
    ("host_command", r#"["a"]"#, r#"["b"]"#, ""),
    // The fake `ssh -G` below prints another user for this file.
    ("ssh_config", "true", r#""/other-user""#, ""),
    ("address_family", r#""any""#, r#""inet6""#, ""),
    ("bind_address", r#""192.0.2.1""#, r#""192.0.2.2""#, ""),
    ("bind_interface", r#""lo""#, r#""eth0""#, ""),
    ("connect_timeout", "5", "6", ""),
    ("login_timeout", "5", "6", ""),
    ("proxy_jump", r#""a""#, r#""b""#, ""),
    ("proxy_command", r#""nc %h %p""#, r#""none""#, ""),
    ("identity_file", r#""/a""#, r#""/b""#, ""),
    ("identities_only", "true", "false", ""),
    ("identity_agent", r#""/a""#, r#""none""#, ""),
    ("certificate_file", r#""/a""#, r#""/b""#, ""),
    ("add_keys_to_agent", "true", r#""ask""#, ""),
    (
        "preferred_authentications",
        r#""password""#,
        r#""publickey""#,
        "",
    ),
    ("pubkey_authentication", "true", "false", ""),
    ("password_authentication", "true", "false", ""),
    ("kbd_interactive_authentication", "true", "false", ""),
    (
        "pubkey_accepted_algorithms",
        r#""ssh-ed25519""#,
        r#""rsa-sha2-512""#,
        "",
    ),
    ("number_of_password_prompts", "1", "2", ""),
    ("password_command", r#"["a"]"#, r#"["b"]"#, ""),
    ("passphrase_command", r#"["a"]"#, r#"["b"]"#, ""),
    (
        "answers",
        r#"[{ prompt = "a", command = ["x"] }]"#,
        r#"[{ prompt = "b", command = ["x"] }]"#,
        "",
    ),
    ("strict_host_key_checking", r#""ask""#, r#""yes""#, ""),
    ("user_known_hosts_file", r#""/a""#, r#""/b""#, ""),
    ("global_known_hosts_file", r#""/a""#, r#""/b""#, ""),
    ("revoked_host_keys", r#""/a""#, r#""/b""#, ""),
    ("known_hosts_command", r#""/a""#, r#""none""#, ""),
    ("host_key_alias", r#""a""#, r#""b""#, ""),
    (
        "host_key_algorithms",
        r#""ssh-ed25519""#,
        r#""rsa-sha2-512""#,
        "",
    ),
    ("required_rsa_size", "1024", "3072", ""),
    ("hash_known_hosts", "true", "false", ""),
    ("update_host_keys", "true", r#""ask""#, ""),
    ("ciphers", r#""aes256-ctr""#, r#""aes128-ctr""#, ""),
    ("macs", r#""hmac-sha2-512""#, r#""hmac-sha2-256""#, ""),
    ("kex_algorithms", r#""-*nistp*""#, r#""-curve*""#, ""),
    ("compression", "true", "false", ""),
    ("rekey_limit", r#""1G""#, r#""2G""#, ""),
    ("server_alive_interval", "5", "6", ""),
    ("server_alive_count_max", "5", "6", ""),
    ("tcp_keep_alive", "true", "false", ""),
    ("backoff", r#"{ initial = "1s" }"#, r#"{ max = "2m" }"#, ""),
    ("local_forward", r#""1 h:1""#, r#""2 h:1""#, ""),
    ("remote_forward", r#""1 h:1""#, r#""2 h:1""#, ""),
    ("dynamic_forward", "1", "2", ""),
    ("gateway_ports", "true", "false", "dynamic_forward = 1"),
    // The fake `ssh -G` prints one LocalForward.
    ("clear_all_forwardings", "true", "false", ""),
    ("exit_on_forward_failure", "true", "false", ""),
    ("stream_local_bind_unlink", "true", "false", ""),
    ("stream_local_bind_mask", r#""0177""#, r#""0117""#, ""),
    ("max_connections", "5", "6", ""),
    ("permit_remote_open", r#""a:1""#, r#""b:1""#, ""),
    (
        "proxy_for",
        r#""*.a""#,
        r#"["*.b", "!c.b:1"]"#,
        "dynamic_forward = 1",
    ),
    (
        "proxy_user",
        r#""a""#,
        r#""b""#,
        "dynamic_forward = 1\nproxy_user_password_command = [\"x\"]",
    ),
    (
        "proxy_user_password_command",
        r#"["a"]"#,
        r#"["b"]"#,
        "dynamic_forward = 1\nproxy_user = \"x\"",
    ),
    ("dns_listen", "1", r#""127.0.0.2:1""#, ""),
    ("dns_server", r#""a""#, r#""a:54""#, "dns_listen = 1"),
    ("autostart", "true", "false", ""),
    ("hold", "5", "6", ""),
    ("on_needs_input", r#"["a"]"#, r#"["b"]"#, ""),
    ("description", r#""a""#, r#""b""#, ""),
    ("tags", r#""a""#, r#""b""#, ""),
    ("log", r#""info""#, r#""debug""#, ""),
    ("max_concurrent_connects", "1", "2", ""),
    ("http_listen", "9145", r#""/run/x.sock""#, ""),
    ("metrics", "true", "false", ""),
];

/// Answers `ssh -G` for the tunnel `t`: what it prints depends on the file that `-F` names.
#[derive(Debug)]
struct FakeSsh;

impl RunProgram for FakeSsh {
    fn run<'a>(
        &'a self,
        _program: &'a Path,
        arguments: &'a [OsString],
        _limits: Limits,
    ) -> ProgramFuture<'a> {
        let named = |text: &str| arguments.iter().any(|argument| argument == text);
        let output = if named("none") || named("tunneld.invalid") {
            "user me\nconnecttimeout none\n"
        } else if named("/other-user") {
            "user other\nconnecttimeout none\n"
        } else if named("/other-timeout") {
            "user me\nconnecttimeout 7\n"
        } else {
            "user me\nconnecttimeout none\nlocalforward 9999 h:1\n"
        };
        let output = ProgramOutput {
            status: std::process::ExitStatus::default(),
            stdout: output.into(),
            stderr: Vec::new(),
        };
        Box::pin(async move { Ok(output) })
    }
}

/// Loads one file with this text.
async fn load(text: &str) -> Loaded {
    let dir = Dir::new();
    dir.write("t.toml", text);
    let env = Env {
        ssh: Some("ssh".into()),
        // The home shows in default paths: the same for every load, so that only the key differs.
        home: "/nowhere".into(),
        ..dir.env()
    };
    let loaded = Loader::new(dir.dir.clone(), env, Arc::new(FakeSsh))
        .load(now())
        .await;
    assert_eq!(loaded.faults, [], "{text}");
    loaded
}

/// What a reload from the first to the second of these files changes about the tunnel `t`.
async fn change(old: &str, new: &str) -> Change {
    let (old, new) = (load(old).await, load(new).await);
    diff(&old.tunnels[0], &new.tunnels[0])
}

#[tokio::test]
async fn a_change_of_a_key_has_the_effect_that_the_table_says() {
    let sampled: Vec<&str> = SAMPLES.iter().map(|(name, ..)| *name).collect();
    let names: Vec<&str> = all().map(|key| key.name).collect();
    let unsampled = names.iter().filter(|name| !sampled.contains(name));
    assert_eq!(unsampled.collect::<Vec<_>>(), Vec::<&&str>::new());
    let mut wrong = Vec::new();
    for (name, one, other, rest) in SAMPLES {
        let key = all().find(|key| key.name == *name).unwrap();
        let file = |value: &str| match key.scope {
            Scope::Daemon => format!("[tunnel.t]\n[daemon]\n{name} = {value}\n"),
            _ => format!("[tunnel.t]\n{name} = {value}\n{rest}\n"),
        };
        let expected = match key.scope {
            // The sample's file names another user.
            Scope::Source | Scope::Session => Change::Session,
            Scope::DialPolicy => Change::DialPolicy,
            Scope::Forwards => Change::Forwards,
            Scope::Metadata => Change::Metadata,
            Scope::Daemon => Change::Same,
        };
        let found = change(&file(one), &file(other)).await;
        if found != expected {
            wrong.push(format!("{name}: {found:?}, the table says {expected:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[tokio::test]
async fn a_change_of_ssh_config_counts_as_the_change_of_what_it_gives() {
    let with =
        |value: &str| format!("[tunnel.t]\nclear_all_forwardings = true\nssh_config = {value}\n");
    let usual = with("true");
    assert_eq!(change(&usual, &with("false")).await, Change::Same);
    assert_eq!(
        change(&usual, &with(r#""/other-timeout""#)).await,
        Change::DialPolicy
    );
    assert_eq!(
        change(&usual, &with(r#""/other-user""#)).await,
        Change::Session
    );
}

#[tokio::test]
async fn a_policy_of_a_jump_host_needs_no_new_session() {
    let with = |seconds: u32| {
        format!("[defaults]\nconnect_timeout = {seconds}\n[tunnel.t]\nproxy_jump = \"hop\"\n")
    };
    assert_eq!(change(&with(5), &with(6)).await, Change::DialPolicy);
}

#[tokio::test]
async fn a_jump_host_gets_no_configured_password_or_answer() {
    let text = "[defaults]\npassword_command = [\"pass\"]\nanswers = [{ prompt = \"x\", command = [\"y\"] }]\n\
                passphrase_command = [\"phrase\"]\n[tunnel.t]\nproxy_jump = \"hop\"\n";
    let loaded = load(text).await;
    let route = &loaded.tunnels[0].route;
    assert_eq!(route.auth.password_command, ["pass"]);
    assert_eq!(route.auth.answers.len(), 1);
    let crate::model::Via::Jump(hops) = &route.via else {
        panic!("no jump host: {route:?}");
    };
    assert!(hops[0].auth.password_command.is_empty());
    assert!(hops[0].auth.answers.is_empty());
    // A passphrase opens a file of this machine, and no server receives it.
    assert_eq!(hops[0].auth.passphrase_command, ["phrase"]);
}

#[tokio::test]
async fn daemon_keys_change_the_daemon() {
    for (name, one, other, _) in SAMPLES {
        if daemon_keys().any(|key| key.name == *name) {
            let file = |value: &str| format!("[daemon]\n{name} = {value}\n");
            let (old, new) = (load(&file(one)).await, load(&file(other)).await);
            assert_ne!(old.daemon, new.daemon, "{name}");
        }
    }
}

#[test]
fn the_parser_reads_the_keys_of_the_table_and_no_other() {
    let read: BTreeSet<&str> = crate::layer::Layer::FIELDS
        .iter()
        .map(|field| match *field {
            "backoff_initial" | "backoff_max" => "backoff",
            field => field,
        })
        .collect();
    let table: BTreeSet<&str> = tunnel_keys().map(|key| key.name).collect();
    assert_eq!(read, table);
    for key in all() {
        let title = if key.scope == Scope::Daemon {
            "daemon"
        } else {
            "tunnel.t"
        };
        // No key takes a date: a key that the parser does not read would be unknown, or pass.
        let (_, diagnostics) =
            crate::parse::file::parse(0, &format!("[{title}]\n{} = 1979-05-27\n", key.name));
        let messages: Vec<&str> = diagnostics.iter().map(|one| &*one.message).collect();
        assert!(
            messages.len() == 1 && messages[0].starts_with(&format!("{}: expected", key.name)),
            "{}: {messages:?}",
            key.name
        );
    }
}

#[test]
fn defaults_refuse_the_keys_of_one_tunnel() {
    for key in tunnel_keys().filter(|key| key.tunnel_only) {
        let (_, diagnostics) =
            crate::parse::file::parse(0, &format!("[defaults]\n{} = \"1\"\n", key.name));
        let help = diagnostics[0].help.as_deref().unwrap_or_default();
        assert!(
            help.contains("[tunnel.NAME]"),
            "{}: {diagnostics:?}",
            key.name
        );
    }
}

#[test]
fn a_key_is_its_keyword_in_snake_case() {
    for key in all() {
        if let Some(keyword) = key.keyword {
            assert_eq!(keyword.to_ascii_lowercase(), key.name.replace('_', ""));
        }
    }
}

/// tunnelctl links no code of this crate, so its list is compared as text.
#[test]
fn tunnelctl_takes_every_keyword_and_no_unknown_key() {
    let source = include_str!("../../../../ctl/src/options/keywords.rs");
    let list = source.split_once("const KEYS").unwrap().1;
    let list = list.split_once("];").unwrap().0;
    // Rows are ("Keyword", "key", Form): the strings alternate.
    let strings: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    let rows: Vec<(&str, &str)> = strings.chunks(2).map(|row| (row[0], row[1])).collect();
    for key in all() {
        if let Some(keyword) = key.keyword {
            assert!(rows.contains(&(keyword, key.name)), "{keyword}");
        }
    }
    for (keyword, name) in rows {
        let known = all().any(|key| key.name == name && key.keyword.unwrap_or_default() == keyword);
        assert!(known || RESERVED_KEYS.contains(&name), "{keyword} {name}");
    }
}

/// A table of docs/configuration.md, between its markers.
fn table(section: &Section) -> String {
    let rows = section.keys.iter().map(|key| {
        format!(
            "| `{}` | {} | {} | {} | {} |\n",
            key.name,
            key.value,
            key.default,
            key.scope.reconnects(),
            key.doc
        )
    });
    format!(
        "<!-- keys {} -->\n| key | value | default | reconnects | meaning |\n|---|---|---|---|---|\n{}<!-- end -->",
        section.name,
        rows.collect::<String>()
    )
}

fn list(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// Replaces what is between `<!-- keys NAME -->` and `<!-- end -->`.
fn replace(page: &str, name: &str, content: &str) -> String {
    let marker = format!("<!-- keys {name} -->");
    let (before, rest) = page
        .split_once(&marker)
        .unwrap_or_else(|| panic!("docs/configuration.md lacks {marker}"));
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    format!("{before}{content}{after}")
}

/// `UPDATE_DOCS=1 cargo test -p tunneld-config docs` rewrites the tables.
#[test]
fn docs_configuration_has_the_tables_of_the_keys() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut expected = page.clone();
    for section in SECTIONS {
        expected = replace(&expected, section.name, &table(section));
    }
    let lines = [
        (
            "tunnel_only",
            list(
                &tunnel_keys()
                    .filter(|key| key.tunnel_only)
                    .map(|key| key.name)
                    .collect::<Vec<_>>(),
            ),
        ),
        ("reserved", list(RESERVED_KEYS)),
    ];
    for (name, line) in lines {
        let content = format!("<!-- keys {name} -->\n{line}\n<!-- end -->");
        expected = replace(&expected, name, &content);
    }
    if page == expected {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, expected).unwrap();
        return;
    }
    panic!(
        "docs/configuration.md differs from the key table; UPDATE_DOCS=1 cargo test -p tunneld-config docs \
         rewrites it to:\n{expected}"
    );
}
