//! Compares every message with its golden file. A difference breaks existing clients.
//!
//! `UPDATE_GOLDEN=1 cargo test -p tunneld-proto --test golden` rewrites the files.
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside of test functions fail with it"
)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::failure::FailureKind;
use tunneld_proto::message::*;
use tunneld_proto::status::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn last_error() -> LastError {
    LastError::new(
        FailureKind::AuthRefused,
        "the server refused the login of deploy",
        Some("see that the key is in authorized_keys".into()),
        at(1),
    )
}

fn forward(kind: ForwardKind, state: ForwardState) -> ForwardStatus {
    ForwardStatus {
        kind,
        listen: "127.0.0.1:8088".into(),
        to: (kind != ForwardKind::Dynamic).then(|| "localhost:8088".into()),
        state,
        error: (state == ForwardState::Failed).then(last_error),
        exposed: kind == ForwardKind::Remote,
        connections: 2,
        held: 1,
        total: 30,
        bytes_in: 4000,
        bytes_out: 500,
        refused: (kind == ForwardKind::Local).then(|| Refusal {
            code: Some(1),
            message: "open failed".into(),
            at: at(4),
            count: 7,
        }),
    }
}

fn prompt() -> Prompt {
    Prompt {
        id: 12,
        tunnel: "db".into(),
        kind: PromptKind::HostKey,
        host: "deploy@db.example.org:22".into(),
        text: "The host key of db.example.org is not known.".into(),
        fields: vec![PromptField {
            label: "Trust it? (yes, no, or the fingerprint)".into(),
            echo: true,
        }],
        fingerprint: Some("SHA256:abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG".into()),
        since: at(2),
    }
}

fn tunnel() -> TunnelStatus {
    TunnelStatus {
        name: "db".into(),
        state: State::Degraded,
        phase: None,
        since: at(3),
        host: "deploy@db.example.org:22".into(),
        via: vec!["jump.example.org".into()],
        tags: vec!["work".into()],
        description: Some("the database".into()),
        desired: Desired::Up,
        attempt: 1,
        retry_at: None,
        last_error: Some(last_error()),
        prompt: None,
        session: Some(SessionStatus {
            since: at(4),
            server: "SSH-2.0-OpenSSH_9.2p1".into(),
            kex: "curve25519-sha256".into(),
            cipher: "chacha20-poly1305@openssh.com".into(),
            mac: None,
            host_key: "ssh-ed25519 SHA256:abc".into(),
            auth: "publickey (agent, ED25519 SHA256:def)".into(),
            rtt_ms: Some(12.5),
            offences: 2,
        }),
        reconnects: 3,
        forwards: vec![
            forward(ForwardKind::Local, ForwardState::Listening),
            forward(ForwardKind::Remote, ForwardState::Failed),
            forward(ForwardKind::Dynamic, ForwardState::Pending),
            forward(ForwardKind::Dns, ForwardState::Listening),
        ],
        proxy_for: vec!["*.compute.internal".into(), "10.0.0.0/8".into()],
        proxy_user: Some("alice".into()),
        notes: vec!["~/.ssh/config is not read".into()],
    }
}

fn connecting() -> TunnelStatus {
    TunnelStatus {
        state: State::Connecting,
        phase: Some(Phase::HostKey),
        description: None,
        session: None,
        last_error: None,
        proxy_for: Vec::new(),
        proxy_user: None,
        notes: Vec::new(),
        forwards: Vec::new(),
        retry_at: Some(at(9)),
        ..tunnel()
    }
}

fn reloaded() -> ReloadReport {
    ReloadReport {
        added: vec!["a".into()],
        changed: vec!["b".into()],
        removed: vec!["c".into()],
        errors: vec![ConfigFault {
            file: "/home/u/.config/tunneld/work.toml".into(),
            line: Some(3),
            column: Some(7),
            message: "unknown key".into(),
            rendered: "unknown key\n --> work.toml:3:7".into(),
        }],
    }
}

fn event(body: EventBody) -> Event {
    Event {
        seq: 41,
        at: at(5),
        body,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Compares each message with its file, or writes the file; and checks that the message parses back.
struct Golden {
    update: bool,
    seen: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Golden {
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(
        &mut self,
        name: &str,
        message: &T,
    ) {
        let text = serde_json::to_string_pretty(message).unwrap() + "\n";
        let back: T = serde_json::from_str(&text).unwrap();
        assert_eq!(&back, message, "{name} does not parse back");
        let file = format!("{name}.json");
        let path = folder().join(&file);
        if self.update {
            std::fs::write(&path, &text).unwrap();
        }
        match std::fs::read_to_string(&path) {
            Ok(golden) if golden.replace("\r\n", "\n") == text => {}
            Ok(_) => self.wrong.push(format!("{file} differs; now:\n{text}")),
            Err(err) => self.wrong.push(format!("{file}: {err}")),
        }
        assert!(self.seen.insert(file), "{name} twice");
    }

    fn request<T: Serialize + DeserializeOwned + PartialEq + Debug>(
        &mut self,
        method: &str,
        params: &T,
    ) {
        self.check(
            &format!("call.{method}"),
            &Request {
                jsonrpc: "2.0".into(),
                id: Some(json!(1)),
                method: method.into(),
                params: serde_json::to_value(params).unwrap(),
            },
        );
        let value = serde_json::to_value(params).unwrap();
        assert_eq!(&serde_json::from_value::<T>(value).unwrap(), params);
    }

    fn reply<T: Serialize + DeserializeOwned + PartialEq + Debug>(
        &mut self,
        method: &str,
        result: &T,
    ) {
        self.check(
            &format!("reply.{method}"),
            &Reply {
                jsonrpc: "2.0".into(),
                id: json!(1),
                result: Some(serde_json::to_value(result).unwrap()),
                error: None,
            },
        );
        let value = serde_json::to_value(result).unwrap();
        assert_eq!(&serde_json::from_value::<T>(value).unwrap(), result);
    }

    fn notification<T: Serialize + DeserializeOwned + PartialEq + Debug>(
        &mut self,
        name: &str,
        method: &str,
        params: &T,
    ) {
        let value = serde_json::to_value(params).unwrap();
        assert_eq!(&serde_json::from_value::<T>(value.clone()).unwrap(), params);
        self.check(
            name,
            &Request {
                jsonrpc: "2.0".into(),
                id: None,
                method: method.into(),
                params: value,
            },
        );
    }
}

fn calls(golden: &mut Golden) {
    let names = Names {
        names: vec!["db".into(), "web".into()],
        wait: true,
        timeout_ms: Some(30_000),
    };
    let hello = Hello {
        client: "tunnelctl 0.1.0".into(),
        protocol: vec![1],
    };
    golden.request(method::HELLO, &hello);
    golden.request(method::UP, &names);
    golden.request(method::DOWN, &names);
    golden.request(method::RESTART, &names);
    let add = Add {
        name: "db".into(),
        spec: json!({"host": "db.example.org", "local_forward": ["5432 localhost:5432"]}),
        save: true,
    };
    golden.request(method::ADD, &add);
    golden.request(method::REMOVE, &Remove { name: "db".into() });
    let names = vec!["db".into()];
    golden.request(method::STATUS, &StatusParams { names });
    golden.request(method::PROMPT_LIST, &Value::Null);
    let answer = Answer {
        id: 12,
        answers: vec!["yes".into()],
    };
    golden.request(method::PROMPT_ANSWER, &answer);
    golden.request(method::PROMPT_CANCEL, &Cancel { id: 12 });
    let names = vec!["db".into()];
    golden.request(method::PROMPT_ATTEND, &Attend { names });
    golden.request(method::RELOAD, &Value::Null);
    let tail = LogTail {
        name: Some("db".into()),
        since: Some(at(0)),
        follow: true,
    };
    golden.request(method::LOG_TAIL, &tail);
    let filter = "debug".into();
    golden.request(method::LOG_SET_LEVEL, &SetLevel { filter });
    let connect = Connect {
        name: "db".into(),
        host: "inner.example.org".into(),
        port: 22,
    };
    golden.request(method::CONNECT, &connect);
    golden.request(method::DAEMON_STATUS, &Value::Null);
    golden.request(method::PAC, &Value::Null);
    let proxy = ProxyOf { name: "emr".into() };
    golden.request(method::PROXY_PASSWORD, &proxy);
    golden.request(method::SHUTDOWN, &Value::Null);
    golden.request(
        method::SUBSCRIBE,
        &Subscribe {
            since_seq: Some(40),
        },
    );
}

fn replies(golden: &mut Golden) {
    let welcome = Welcome {
        version: "0.1.0".into(),
        protocol: 1,
        pid: 4321,
        features: vec!["x".into()],
    };
    golden.reply(method::HELLO, &welcome);
    let tunnels = Tunnels {
        tunnels: vec![tunnel(), connecting()],
    };
    golden.reply(method::STATUS, &tunnels);
    let added = Added {
        name: "db".into(),
        file: Some("/home/u/.config/tunneld/db.toml".into()),
    };
    golden.reply(method::ADD, &added);
    let prompts = vec![prompt()];
    golden.reply(method::PROMPT_LIST, &Prompts { prompts });
    golden.reply(method::RELOAD, &reloaded());
    let lines = vec![log_line()];
    golden.reply(method::LOG_TAIL, &LogLines { lines });
    let status = DaemonStatus {
        version: "0.1.0".into(),
        pid: 4321,
        since: at(0),
        config_dir: "/home/u/.config/tunneld".into(),
        socket: "/run/user/1000/tunneld/control.sock".into(),
        config_errors: reloaded().errors,
        log_dropped: 0,
        clients: 1,
        notes: vec!["no ssh program".into()],
    };
    golden.reply(method::DAEMON_STATUS, &status);
    let password = ProxyPassword {
        user: "alice".into(),
        password: "secret".into(),
    };
    golden.reply(method::PROXY_PASSWORD, &password);
    let pac = Pac {
        file: "function FindProxyForURL(url, host) {}\n".into(),
    };
    golden.reply(method::PAC, &pac);
    let metrics = Metrics {
        text: "# HELP tunneld_tunnel_up Whether the session and every forward work.\n".to_owned(),
    };
    golden.reply(method::METRICS, &metrics);
    let opened = WebOpened {
        url: "http://127.0.0.1:40123/#key=abc".to_owned(),
        file: Some("/run/user/1000/tunneld/web-Xy12.html".to_owned()),
    };
    golden.reply(method::WEB_OPEN, &opened);
    golden.reply(method::SUBSCRIBE, &snapshot(None));
    let error = RpcError::new(ErrorKind::TunnelNotFound, "no tunnel is called bd")
        .hint("did you mean db?")
        .causes(["a cause".to_owned()]);
    golden.check(
        "reply.error",
        &Reply {
            jsonrpc: "2.0".into(),
            id: Value::Null,
            result: None,
            error: Some(error),
        },
    );
}

fn log_line() -> LogLine {
    LogLine {
        at: at(6),
        level: "info".into(),
        tunnel: Some("db".into()),
        message: "up".into(),
    }
}

fn snapshot(missed: Option<u64>) -> Snapshot {
    Snapshot {
        seq: 40,
        tunnels: vec![connecting()],
        prompts: vec![prompt()],
        missed,
    }
}

fn notifications(golden: &mut Golden) {
    let tunnel = Box::new(connecting());
    for (name, body) in [
        ("event.tunnel", EventBody::Tunnel { tunnel }),
        ("event.removed", EventBody::Removed { name: "db".into() }),
        ("event.prompt", EventBody::Prompt { prompt: prompt() }),
        ("event.prompt_gone", EventBody::PromptGone { id: 12 }),
        ("event.config", EventBody::Config { report: reloaded() }),
        ("event.bye", EventBody::Bye),
    ] {
        golden.notification(name, method::EVENT, &event(body));
    }
    golden.notification("lagged", method::LAGGED, &snapshot(Some(9)));
    golden.notification("log", method::LOG, &log_line());
}

#[test]
fn every_message_matches_its_golden_file() {
    let mut golden = Golden {
        update: std::env::var_os("UPDATE_GOLDEN").is_some(),
        seen: BTreeSet::new(),
        wrong: Vec::new(),
    };
    calls(&mut golden);
    replies(&mut golden);
    notifications(&mut golden);
    let files: BTreeSet<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for unused in files.difference(&golden.seen) {
        golden
            .wrong
            .push(format!("{unused} is the file of no message"));
    }
    assert!(golden.wrong.is_empty(), "{}", golden.wrong.join("\n"));
}

#[test]
fn the_strings_of_each_enumeration_are_unchanged() {
    let states = [
        State::Stopped,
        State::Idle,
        State::Connecting,
        State::NeedsInput,
        State::Up,
        State::Degraded,
        State::Waiting,
        State::Failed,
    ];
    for state in states {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
    let phases = [
        Phase::HostCommand,
        Phase::Resolve,
        Phase::Tcp,
        Phase::Proxy,
        Phase::Kex,
        Phase::HostKey,
        Phase::Auth,
        Phase::Forwards,
    ];
    for phase in phases {
        assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
    }
    let kinds = [
        PromptKind::HostKey,
        PromptKind::Passphrase,
        PromptKind::Password,
        PromptKind::NewPassword,
        PromptKind::KeyboardInteractive,
    ];
    let words: Vec<_> = kinds
        .iter()
        .map(|kind| serde_json::to_value(kind).unwrap())
        .collect();
    assert_eq!(
        words,
        [
            "host_key",
            "passphrase",
            "password",
            "new_password",
            "keyboard_interactive"
        ]
    );
}

#[test]
fn unknown_values_of_a_newer_daemon_are_accepted() {
    assert_eq!(
        serde_json::from_str::<State>("\"sleeping\"").unwrap(),
        State::Unknown
    );
    assert_eq!(
        serde_json::from_str::<ForwardKind>("\"subnets\"").unwrap(),
        ForwardKind::Unknown
    );
    let error: LastError = serde_json::from_str(
        r#"{"kind": "quota", "message": "m", "hint": null, "at": "2026-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    assert_eq!(error.kind, FailureKind::Other("quota".into()));
    assert!(!error.ends_wait, "a daemon that does not send it");
    let kind: ErrorKind = serde_json::from_str("\"quota\"").unwrap();
    assert_eq!(
        (kind.as_str(), &kind),
        ("quota", &ErrorKind::Other("quota".into()))
    );
}

#[test]
fn debug_does_not_show_an_answer() {
    let answer = Answer {
        id: 1,
        answers: vec!["hunter2".into()],
    };
    assert!(!format!("{answer:?}").contains("hunter2"));
}
