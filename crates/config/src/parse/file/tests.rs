//! Any text is parsed without a panic, with each error at its place; and what is saved is loaded as the same tunnel.

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tunneld_platform::subprocess::TokioPrograms;

use super::*;
use crate::diagnostic::SourceText;
use crate::load::tests::now;
use crate::{Loader, ad_hoc, save};

/// Parses any text and checks what it reports.
fn check(text: &str) {
    let (_, diagnostics) = parse(0, text);
    let source = SourceText::new("f.toml", text);
    for diagnostic in &diagnostics {
        let span = diagnostic
            .span
            .unwrap_or_else(|| panic!("no span for {diagnostic:?}"));
        assert!(
            span.start <= span.end && span.end <= text.len(),
            "{diagnostic:?}"
        );
        let fault = source.to_fault(diagnostic);
        assert!(fault.line.is_some() && fault.column.is_some());
        assert!(
            fault.rendered.chars().all(|c| c == '\n' || !c.is_control()),
            "{fault:?}"
        );
    }
}

const GOOD: &str = r#"
[defaults]
server_alive_interval = "15s"
[tunnel.emr]
host = "hadoop@ec2.example:22"
identity_file = ["~/a.pem", "~/b"]
dynamic_forward = 8157
local_forward = ["8088 localhost:8088", "127.0.0.1:9870:localhost:9870"]
answers = [{ prompt = "(?i)code", command = ["totp", "x"] }]
backoff = { initial = "1s", max = "1m" }
rekey_limit = "1G 1h"
tags = ["a", "b"]
[daemon]
log = "info"
"#;

/// A key, known or not, with a value of any type.
fn entry() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("host"),
        Just("port"),
        Just("hold"),
        Just("proxy_jump"),
        Just("local_forward"),
        Just("remote_forward"),
        Just("answers"),
        Just("backoff"),
        Just("tags"),
        Just("ciphers"),
        Just("rekey_limit"),
        Just("ssh_config"),
        Just("stream_local_bind_mask"),
        Just("identity_file"),
        Just("on_up"),
        Just("hots"),
    ];
    let value = prop_oneof![
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        Just("nan".to_owned()),
        Just("1e18".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("1979-05-27".to_owned()),
        "\"[ -!#-\\[\\]-~äß€]{0,20}\"",
        "\"[0-9]{0,6}[:a-z\\[\\] /]{0,12}[0-9]{0,6}\"",
        Just("[]".to_owned()),
        Just("[1, \"a\", [2], {}]".to_owned()),
        Just("{ initial = \"1s\", prompt = \"(\" }".to_owned()),
    ];
    (key, value).prop_map(|(key, value)| format!("{key} = {value}\n"))
}

proptest! {
    #[test]
    fn any_text_is_parsed(text in "\\PC{0,200}") {
        check(&text);
    }

    #[test]
    fn any_values_are_parsed(entries in proptest::collection::vec(entry(), 0..12), title in "(tunnel\\.[a-z\"./ ]{0,6}|defaults|daemon|tunnel)") {
        check(&format!("[{title}]\n{}", entries.concat()));
    }

    #[test]
    fn any_mutation_of_a_good_file_is_parsed(at in 0..GOOD.len(), with in "[\\[\\]{}\"'=\\n.a0#\u{1b}é]{0,3}", cut in 0usize..5) {
        let end = (at + cut).min(GOOD.len());
        check(&format!("{}{with}{}", &GOOD[..at], &GOOD[end..]));
    }
}

#[test]
fn the_good_file_has_no_error() {
    assert_eq!(parse(0, GOOD).1, []);
}

fn tunnel_keys() -> impl Strategy<Value = Json> {
    let port = 1u16..30_000;
    let keys = (
        proptest::option::of("[a-z]{1,8}@[a-z]{1,8}(:[1-9][0-9]{0,3})?"),
        proptest::option::of(0u32..100_000),
        proptest::collection::btree_set(port.clone(), 0..4),
        proptest::collection::vec((port, "[a-z]{1,6}"), 0..3),
        proptest::option::of(any::<bool>()),
        proptest::option::of("[ -~äß€]{1,20}"),
        proptest::option::of(proptest::collection::vec("[ -~]{1,8}", 1..3)),
    );
    keys.prop_map(|(host, hold, local, remote, autostart, description, command)| {
        let mut object = json!({
            "ssh_config": false,
            "local_forward": local.iter().map(|port| format!("{port} db:{port}")).collect::<Vec<_>>(),
            "remote_forward": remote.iter().map(|(port, host)| format!("0 {host}:{port}")).collect::<Vec<_>>(),
        });
        for (key, value) in [
            ("host", host.map(Json::from)),
            ("hold", hold.map(|hold| json!(hold % 86_400))),
            ("autostart", autostart.map(Json::from)),
            ("description", description.map(Json::from)),
            ("password_command", command.map(Json::from)),
        ] {
            if let Some(value) = value {
                object[key] = value;
            }
        }
        object
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A tunnel that is saved and loaded again equals the one that was resolved from the same keys.
    #[test]
    fn a_saved_tunnel_loads_as_itself(keys in tunnel_keys()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let home = tempfile::TempDir::new().unwrap();
            let dir = home.path().join("tunneld");
            let env = Env { uid: rustix::process::geteuid().as_raw(), ..Env::for_tests(home.path()) };
            let mut loader = Loader::new(dir.clone(), env, std::sync::Arc::new(TokioPrograms));
            let resolved = ad_hoc("t", &keys, &loader).await.unwrap();
            save(&dir, "t", &keys).unwrap();
            let loaded = loader.load(now()).await;
            assert_eq!(loaded.faults, []);
            assert_eq!(loaded.tunnels, [resolved]);
        });
    }
}
