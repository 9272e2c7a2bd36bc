//! `connect`: both directions to their own ends.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::process::{ChildStdin, Stdio};

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
        daemon.raw(b"whole");
        daemon.lines.get_ref().shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        daemon.lines.read_to_end(&mut heard).unwrap();
    });
    let (ran, held) = connected(&place);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "whole", "")
    );
    daemon.join().unwrap();
    drop(held);
}

#[test]
fn connect_tells_of_a_session_that_died_in_the_middle() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("connect", &json!({}));
        daemon.raw(b"half");
    });
    let (ran, held) = connected(&place);
    assert_eq!((ran.code, ran.out.as_str()), (1, "half"));
    assert!(
        ran.err
            .starts_with("error: the connection was lost\nhint: see: tunnelctl status db"),
        "{}",
        ran.err
    );
    daemon.join().unwrap();
    drop(held);
}

/// `connect` with a stdin that stays open.
fn connected(place: &Place) -> (Ran, Option<ChildStdin>) {
    let mut child = place
        .command(&["connect", "db", "h:22"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let held = child.stdin.take();
    (Ran::of(child.wait_with_output().unwrap()), held)
}

#[test]
fn connect_whose_reader_has_gone_is_no_error() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("connect", &json!({}));
        daemon.raw(b"unread");
        let mut heard = Vec::new();
        daemon.lines.read_to_end(&mut heard).unwrap();
    });
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = place
        .command(&["connect", "db", "h:22"])
        .stdin(Stdio::piped())
        .stdout(writer)
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
        ran.err.contains("hint: start the tunnel first"),
        "{}",
        ran.err
    );
}
