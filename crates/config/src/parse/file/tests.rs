//! Whatever the text: an answer, each fault at its place; and what is written reads as itself.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::diagnostic::Source;
use crate::{Loader, ad_hoc, save};

fn proved(text: &str) {
    let (_, problems) = parse(0, text);
    let source = Source::new("f.toml", text);
    for problem in &problems {
        let at = problem
            .at
            .unwrap_or_else(|| panic!("no place for {problem:?}"));
        assert!(at.start <= at.end && at.end <= text.len(), "{problem:?}");
        let fault = source.fault(problem);
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

/// A key of the contract with some value.
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
    fn any_text_is_an_answer(text in "\\PC{0,200}") {
        proved(&text);
    }

    #[test]
    fn any_values_are_an_answer(entries in proptest::collection::vec(entry(), 0..12), title in "(tunnel\\.[a-z\"./ ]{0,6}|defaults|daemon|tunnel)") {
        proved(&format!("[{title}]\n{}", entries.concat()));
    }

    #[test]
    fn any_mutation_of_a_good_file_is_an_answer(at in 0..GOOD.len(), with in "[\\[\\]{}\"'=\\n.a0#\u{1b}é]{0,3}", cut in 0usize..5) {
        let end = (at + cut).min(GOOD.len());
        proved(&format!("{}{with}{}", &GOOD[..at], &GOOD[end..]));
    }
}

#[test]
fn the_good_file_is_good() {
    assert_eq!(parse(0, GOOD).1, []);
}

fn spec() -> impl Strategy<Value = Json> {
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
        let mut spec = json!({
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
                spec[key] = value;
            }
        }
        spec
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A tunnel that is saved and read again is the tunnel that was made.
    #[test]
    fn what_is_saved_reads_as_itself(spec in spec()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let home = tempfile::TempDir::new().unwrap();
            let dir = home.path().join("tunneld");
            let env = Env { uid: rustix::process::geteuid().as_raw(), ..Env::for_tests(home.path()) };
            let mut loader = Loader::new(dir.clone(), env, std::sync::Arc::new(tunneld_platform::subprocess::TokioPrograms));
            let made = ad_hoc("t", &spec, &loader).await.unwrap();
            save(&dir, "t", &spec).unwrap();
            let loaded = loader.load(tokio::time::Instant::now().into_std()).await;
            assert_eq!(loaded.faults, []);
            assert_eq!(loaded.tunnels, [made]);
        });
    }
}

/// The manual and the reader know the same keys.
#[test]
fn every_key_is_in_the_manual_and_the_other_way_round() {
    let manual = include_str!("../../../../../docs/configuration.md");
    let documented: Vec<&str> = manual
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(key, _)| key)
        })
        .collect();
    for key in &documented {
        let daemon = matches!(*key, "log" | "max_concurrent_connects");
        let title = if daemon { "daemon" } else { "tunnel.t" };
        let (_, problems) = parse(0, &format!("[{title}]\n{key} = 1979-05-27\n"));
        let unknown = problems
            .iter()
            .any(|problem| problem.message.contains("unknown key"));
        assert!(!unknown && !problems.is_empty(), "{key}: {problems:?}");
    }
    let fields = format!("{:?}", Layer::default());
    for field in fields
        .split(['{', ','])
        .filter_map(|part| part.split_once(':').map(|(name, _)| name.trim()))
    {
        let key = if field.starts_with("backoff_") {
            "backoff"
        } else {
            field
        };
        assert!(documented.contains(&key), "{key} is not in the manual");
    }
}
