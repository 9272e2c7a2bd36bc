//! `connect`: both directions to their own ends.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use serde_json::json;

use crate::daemon::{Place, Ran};

#[test]
fn connect_carries_both_directions_to_their_own_ends() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        let call = daemon.expect("connect");
        assert_eq!(
            call["params"],
            json!({"name": "db", "host": "::1", "port": 22})
        );
        let reply = json!({"jsonrpc": "2.0", "id": call["id"], "result": {}});
        daemon.raw(format!("{reply}\nearly ").as_bytes());
        let mut heard = String::new();
        // Their end comes although ours is open.
        daemon.lines.read_to_string(&mut heard).unwrap();
        daemon.raw(format!("heard {heard}").as_bytes());
    });
    let mut child = place
        .command(&["connect", "db", "[::1]:22"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"ours").unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    daemon.join().unwrap();
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "early heard ours", "")
    );
}

#[test]
fn connect_ends_with_the_far_end_although_stdin_is_open() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("connect", &json!({}));
    });
    let mut child = place
        .command(&["connect", "db", "h:22"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let held = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    daemon.join().unwrap();
    drop(held);
}

#[test]
fn connect_through_a_tunnel_that_is_not_up_is_one() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| daemon.refuse("connect", "not_up", &[]));
    let ran = place.run(&["connect", "db", "h:22"]);
    daemon.join().unwrap();
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("hint: bring the tunnel up first"),
        "{}",
        ran.err
    );
}
