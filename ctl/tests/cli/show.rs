//! `status`, `reload` and the rest that prints: tables, arrays, closed pipes.

use std::io::BufRead as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::{Daemon, Place, daemon_status, failing, now, snapshot, tunnel, tunnels};

#[test]
fn status_prints_a_table_or_one_array() {
    let place = Place::new();
    let script = |daemon: &mut Daemon| {
        daemon.answer(
            "tunnel.status",
            &tunnels(&[
                failing("db", "waiting", "auth_refused", &now()),
                tunnel("web", "up"),
            ]),
        );
        daemon.answer("daemon.status", &daemon_status());
    };
    let daemon = place.daemon(script);
    let ran = place.run(&["status"]);
    daemon.join().unwrap();
    assert_eq!(ran.code, 0);
    assert!(
        ran.out
            .starts_with("NAME  STATE    HOST    FORWARDS  SINCE/NEXT\ndb    waiting  u@h:22"),
        "{}",
        ran.out
    );
    assert!(
        ran.out
            .contains("db: the server\\u{1b}[2J refused\n  hint: ask its owner\n"),
        "{}",
        ran.out
    );
    assert!(!ran.out.contains('\x1b'), "colour without a terminal");

    std::fs::remove_file(place.socket()).unwrap();
    let daemon = place.daemon(script);
    let ran = place.run(&["status", "--output", "json", "w*"]);
    daemon.join().unwrap();
    assert_eq!(ran.code, 0);
    let array: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (array.as_array().unwrap().len(), &array[0]["name"]),
        (1, &json!("web"))
    );

    std::fs::remove_file(place.socket()).unwrap();
    let daemon = place.daemon(script);
    let ran = place.run(&["status", "--color=always", "db"]);
    daemon.join().unwrap();
    assert_eq!(ran.code, 3);
    assert!(ran.out.contains("\x1b[33mwaiting\x1b[0m"), "{:?}", ran.out);
}

#[test]
fn an_unknown_name_is_four() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("tunnel.status", &tunnels(&[tunnel("db", "up")]));
    });
    let ran = place.run(&["status", "bd\u{1b}[2J"]);
    daemon.join().unwrap();
    assert_eq!(ran.code, 4);
    assert!(
        ran.err.contains("there is no tunnel bd\\u{1b}[2J"),
        "{}",
        ran.err
    );
}

#[test]
fn reload_with_a_broken_file_is_two() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        let fault = json!({"file": "/c/a.toml", "line": 1, "column": 1, "message": "m", "rendered": "error: m\n --> a.toml:1:1"});
        daemon.answer("config.reload", &json!({"added": ["x"], "changed": [], "removed": [], "errors": [fault]}));
    });
    let ran = place.run(&["reload"]);
    daemon.join().unwrap();
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(
        ran.err
            .starts_with("added: x\nerror: m\n --> a.toml:1:1\nerror: not read: /c/a.toml\n"),
        "{}",
        ran.err
    );
}

#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
    let script = |daemon: &mut Daemon| {
        daemon.answer("tunnel.status", &tunnels(&[tunnel("db", "up")]));
        // The client may be gone before it asks.
        let mut line = String::new();
        daemon.lines.read_line(&mut line).unwrap();
    };
    let place = Place::new();
    let daemon = place.daemon(script);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = place.command(&["status"]).stdout(writer).output().unwrap();
    daemon.join().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );

    if Path::new("/dev/full").exists() {
        std::fs::remove_file(place.socket()).unwrap();
        let daemon = place.daemon(script);
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = place.command(&["status"]).stdout(full).output().unwrap();
        daemon.join().unwrap();
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn following_prints_each_change_and_ends_with_the_daemon() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "connecting")]));
        daemon.event(2, &tunnel("db", "up"));
        daemon.say(&json!({"jsonrpc": "2.0", "method": "event", "params": {"seq": 3, "at": now(), "kind": "bye"}}));
    });
    let ran = place.run(&["status", "--watch", "--output=json", "-q"]);
    daemon.join().unwrap();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let states: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].clone())
        .collect();
    assert_eq!(states, ["connecting", "up"]);
}
