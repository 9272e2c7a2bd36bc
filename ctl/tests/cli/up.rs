//! `up`: what ends the wait, and with which exit code.

use std::io::Read as _;

use serde_json::json;

use crate::daemon::{Setup, failing, now, snapshot, tunnel, tunnels};

#[test]
fn up_waits_through_network_errors_until_up() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "stopped"), tunnel("web", "up")]));
        let call = daemon.answer("tunnel.up", &tunnels(&[tunnel("db", "connecting")]));
        assert_eq!(call["params"]["names"], json!(["db"]));
        daemon.send_tunnel_event(2, &failing("db", "waiting", "connect_refused", &now()));
        let mut up = tunnel("db", "up");
        up["forwards"] = json!([{"kind": "local", "listen": "127.0.0.1:8088", "to": "x:1", "state": "listening", "error": null,
            "exposed": false, "connections": 0, "held": 0, "total": 0, "bytes_in": 0, "bytes_out": 0}]);
        daemon.send_tunnel_event(3, &up);
    });
    let run = setup.run(&["up", "-v", "db"]);
    daemon.join().unwrap();
    assert_eq!((run.code, run.out.as_str()), (0, ""), "{}", run.err);
    assert!(run.err.ends_with("db up  127.0.0.1:8088\n"), "{}", run.err);
}

#[test]
fn up_ends_at_a_refused_login_with_the_reason() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        let old = failing("db", "waiting", "auth_refused", "2020-01-01T00:00:00Z");
        daemon.answer("events.subscribe", &snapshot(std::slice::from_ref(&old)));
        daemon.answer("tunnel.up", &tunnels(&[old]));
        daemon.send_tunnel_event(2, &tunnel("db", "connecting"));
        daemon.send_tunnel_event(3, &failing("db", "waiting", "auth_refused", &now()));
    });
    let run = setup.run(&["up", "db"]);
    daemon.join().unwrap();
    assert_eq!(run.code, 1);
    assert_eq!(
        run.err,
        "error: db: the server\\u{1b}[2J refused\nhint: ask its owner\n"
    );
}

#[test]
fn up_times_out_with_the_last_error() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "stopped")]));
        daemon.answer(
            "tunnel.up",
            &tunnels(&[failing("db", "waiting", "connect_refused", &now())]),
        );
        daemon.lines.read_to_end(&mut Vec::new()).unwrap();
    });
    let run = setup.run(&["up", "--wait=0", "db"]);
    daemon.join().unwrap();
    assert_eq!(run.code, 6);
    assert!(run.err.contains("db is waiting: the server"), "{}", run.err);
}

#[test]
fn up_without_a_terminal_does_not_wait_for_an_answer() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "stopped")]));
        let mut asking = tunnel("db", "needs_input");
        asking["prompt"] = json!({"id": 3, "tunnel": "db", "kind": "password", "host": "u@h:22", "text": "", "fields": [],
            "fingerprint": null, "since": now()});
        daemon.answer("tunnel.up", &tunnels(&[asking]));
    });
    let run = setup.run(&["up", "db"]);
    daemon.join().unwrap();
    assert_eq!(run.code, 1);
    assert!(
        run.err
            .contains("hint: answer it in a terminal: tunnelctl answer db"),
        "{}",
        run.err
    );
}

#[test]
fn up_with_ssh_flags_adds_then_starts_the_tunnel() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[]));
        let call = daemon.answer("tunnel.add", &json!({"name": "h", "file": "/c/h.toml"}));
        assert_eq!(
            call["params"],
            json!({"name": "h", "spec": {"host": "u@h", "dynamic_forward": ["1080"]}, "save": true})
        );
        daemon.answer("tunnel.up", &tunnels(&[tunnel("h", "idle")]));
    });
    let run = setup.run(&["up", "-D", "1080", "--save", "u@h"]);
    daemon.join().unwrap();
    assert_eq!(run.code, 0);
    assert_eq!(run.err, "saved h to /c/h.toml\nh idle\n");
}
