//! `up`: what ends the wait, and with which exit code.

use std::io::Read as _;

use serde_json::json;

use crate::daemon::{Place, failing, now, snapshot, tunnel, tunnels};

#[test]
fn up_waits_through_network_troubles_until_up() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "stopped"), tunnel("web", "up")]));
        let call = daemon.answer("tunnel.up", &tunnels(&[tunnel("db", "connecting")]));
        assert_eq!(call["params"]["names"], json!(["db"]));
        daemon.event(2, &failing("db", "waiting", "connect_refused", &now()));
        let mut up = tunnel("db", "up");
        up["forwards"] = json!([{"kind": "local", "listen": "127.0.0.1:8088", "to": "x:1", "state": "listening", "error": null,
            "exposed": false, "connections": 0, "held": 0, "total": 0, "bytes_in": 0, "bytes_out": 0}]);
        daemon.event(3, &up);
    });
    let ran = place.run(&["up", "-v", "db"]);
    daemon.join().unwrap();
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert!(ran.err.ends_with("db up  127.0.0.1:8088\n"), "{}", ran.err);
}

#[test]
fn up_ends_at_a_refused_login_and_says_why() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        let old = failing("db", "waiting", "auth_refused", "2020-01-01T00:00:00Z");
        daemon.answer("events.subscribe", &snapshot(std::slice::from_ref(&old)));
        daemon.answer("tunnel.up", &tunnels(&[old]));
        daemon.event(2, &tunnel("db", "connecting"));
        daemon.event(3, &failing("db", "waiting", "auth_refused", &now()));
    });
    let ran = place.run(&["up", "db"]);
    daemon.join().unwrap();
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.err,
        "error: db: the server\\u{1b}[2J refused\nhint: ask its owner\n"
    );
}

#[test]
fn up_times_out_with_what_is_the_matter() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "stopped")]));
        daemon.answer(
            "tunnel.up",
            &tunnels(&[failing("db", "waiting", "connect_refused", &now())]),
        );
        daemon.lines.read_to_end(&mut Vec::new()).unwrap();
    });
    let ran = place.run(&["up", "--wait=0", "db"]);
    daemon.join().unwrap();
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("db is waiting: the server"), "{}", ran.err);
}

#[test]
fn up_without_a_terminal_does_not_wait_for_an_answer() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "stopped")]));
        let mut asking = tunnel("db", "needs_input");
        asking["prompt"] = json!({"id": 3, "tunnel": "db", "kind": "password", "host": "u@h:22", "text": "", "fields": [],
            "fingerprint": null, "since": now()});
        daemon.answer("tunnel.up", &tunnels(&[asking]));
    });
    let ran = place.run(&["up", "db"]);
    daemon.join().unwrap();
    assert_eq!(ran.code, 1);
    assert!(
        ran.err
            .contains("hint: answer it in a terminal: tunnelctl answer db"),
        "{}",
        ran.err
    );
}

#[test]
fn up_on_the_spot_adds_then_starts() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[]));
        let call = daemon.answer("tunnel.add", &json!({"name": "h", "file": "/c/h.toml"}));
        assert_eq!(
            call["params"],
            json!({"name": "h", "spec": {"host": "u@h", "dynamic_forward": ["1080"]}, "save": true})
        );
        daemon.answer("tunnel.up", &tunnels(&[tunnel("h", "idle")]));
    });
    let ran = place.run(&["up", "-D", "1080", "--save", "u@h"]);
    daemon.join().unwrap();
    assert_eq!(ran.code, 0);
    assert_eq!(ran.err, "saved h to /c/h.toml\nh idle\n");
}
