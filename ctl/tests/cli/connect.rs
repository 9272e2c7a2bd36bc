//! `connect`: each direction ends by itself.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::process::{ChildStdin, Stdio};

use serde_json::json;

use crate::daemon::{CommandOutput, Daemon, Setup, snapshot, tunnel};

#[test]
fn connect_copies_each_direction_to_its_end() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        let call = daemon.expect("connect");
        assert_eq!(
            call["params"],
            json!({"name": "db", "host": "::1", "port": 22})
        );
        let reply = json!({"jsonrpc": "2.0", "id": call["id"], "result": {}});
        daemon.send_bytes(format!("{reply}\nearly ").as_bytes());
        let mut heard = String::new();
        // The remote side ends although stdin is still open.
        daemon.lines.read_to_string(&mut heard).unwrap();
        daemon.send_bytes(format!("heard {heard}").as_bytes());
    });
    let mut child = setup
        .command(&["connect", "db", "[::1]:22"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"ours").unwrap();
    let run = CommandOutput::new(child.wait_with_output().unwrap());
    daemon.join().unwrap();
    assert_eq!(
        (run.code, run.out.as_str(), run.err.as_str()),
        (0, "early heard ours", "")
    );
}

#[test]
fn connect_ends_with_the_remote_side_although_stdin_is_open() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        daemon.answer("connect", &json!({}));
        daemon.send_bytes(b"whole");
        daemon.lines.get_ref().shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        daemon.lines.read_to_end(&mut heard).unwrap();
    });
    let (run, held) = connected(&setup);
    assert_eq!(
        (run.code, run.out.as_str(), run.err.as_str()),
        (0, "whole", "")
    );
    daemon.join().unwrap();
    drop(held);
}

#[test]
fn connect_reports_a_session_that_is_lost_during_the_transfer() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        daemon.answer("connect", &json!({}));
        daemon.send_bytes(b"half");
    });
    let (run, held) = connected(&setup);
    assert_eq!((run.code, run.out.as_str()), (1, "half"));
    assert!(
        run.err
            .starts_with("error: the connection was lost\nhint: see: tunnelctl status db"),
        "{}",
        run.err
    );
    daemon.join().unwrap();
    drop(held);
}

/// Runs `connect` with a stdin that stays open.
fn connected(setup: &Setup) -> (CommandOutput, Option<ChildStdin>) {
    let mut child = setup
        .command(&["connect", "db", "h:22"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let held = child.stdin.take();
    (CommandOutput::new(child.wait_with_output().unwrap()), held)
}

#[test]
fn connect_with_a_closed_stdout_is_not_an_error() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        daemon.answer("connect", &json!({}));
        daemon.send_bytes(b"unread");
        let mut heard = Vec::new();
        daemon.lines.read_to_end(&mut heard).unwrap();
    });
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = setup
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
fn connect_through_a_tunnel_that_is_not_up_exits_with_1() {
    let setup = Setup::new();
    let listener = UnixListener::bind(setup.socket()).unwrap();
    let daemon = std::thread::spawn(move || {
        let mut first = Daemon::accept(&listener);
        first.refuse("connect", "not_up", &[]);
        // The daemon has waited already for a tunnel that is connecting, so tunnelctl does not bring it up.
        let mut second = Daemon::accept(&listener);
        second.answer("events.subscribe", &snapshot(&[tunnel("db", "waiting")]));
    });
    let run = setup.run(&["connect", "db", "h:22"]);
    daemon.join().unwrap();
    assert_eq!(run.code, 1);
    assert!(
        run.err.contains("hint: start the tunnel first"),
        "{}",
        run.err
    );
}
