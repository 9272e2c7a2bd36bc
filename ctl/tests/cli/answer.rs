//! `answer`: prompts answered by lines of stdin, and the logins that ask again.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::daemon::{Daemon, Place, Ran, failing, now, tunnel};

pub(crate) fn prompt(id: u64, name: &str, labels: &[&str]) -> Value {
    let fields: Vec<Value> = labels
        .iter()
        .map(|label| json!({"label": label, "echo": false}))
        .collect();
    json!({"id": id, "tunnel": name, "kind": "keyboard_interactive", "host": "u@h:22", "text": "Codes",
        "fields": fields, "fingerprint": null, "since": now()})
}

fn asking(name: &str, prompt: &Value) -> Value {
    let mut tunnel = tunnel(name, "needs_input");
    tunnel["prompt"] = prompt.clone();
    tunnel
}

fn snapshot(tunnels: &[Value], prompts: &[Value]) -> Value {
    json!({"seq": 1, "tunnels": tunnels, "prompts": prompts})
}

/// Tells of a prompt as the daemon does: the prompt, then its tunnel.
fn asks(daemon: &mut Daemon, seq: u64, name: &str, prompt: &Value) {
    daemon.happens(seq, &json!({"kind": "prompt", "prompt": prompt}));
    daemon.event(seq + 1, &asking(name, prompt));
}

fn gone(daemon: &mut Daemon, seq: u64, id: u64) {
    daemon.happens(seq, &json!({"kind": "prompt_gone", "id": id}));
}

fn run(place: &Place, args: &[&str], stdin: &[u8]) -> Ran {
    let mut child = place
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

#[test]
fn every_round_of_a_login_is_asked() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        let first = prompt(3, "db", &["One", "Two"]);
        daemon.answer(
            "events.subscribe",
            &snapshot(&[asking("db", &first)], &[first]),
        );
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 3, "answers": ["a b", ""]}));
        gone(daemon, 2, 3);
        daemon.event(3, &tunnel("db", "connecting"));
        asks(daemon, 4, "db", &prompt(4, "db", &["Code"]));
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 4, "answers": ["123456"]}));
        gone(daemon, 6, 4);
        daemon.event(7, &tunnel("db", "up"));
    });
    let ran = run(&place, &["answer", "db"], b"a b\n\n123456\n");
    daemon.join().unwrap();
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "", "db answered\ndb answered\ndb up\n")
    );
}

#[test]
fn a_login_is_followed_to_its_end_before_anothers_prompt() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        let (one, two) = (prompt(3, "a", &["A"]), prompt(4, "b", &["B"]));
        let tunnels = [asking("a", &one), asking("b", &two)];
        daemon.answer("events.subscribe", &snapshot(&tunnels, &[one, two]));
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 3, "answers": ["1"]}));
        asks(daemon, 2, "a", &prompt(5, "a", &["A again"]));
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 5, "answers": ["2"]}));
        daemon.event(4, &failing("a", "waiting", "auth_refused", &now()));
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 4, "answers": ["3"]}));
        daemon.event(5, &tunnel("b", "up"));
    });
    let ran = run(&place, &["answer"], b"1\n2\n3\n");
    daemon.join().unwrap();
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.err,
        "a answered\na answered\nerror: a: the server\\u{1b}[2J refused\nhint: ask its owner\nb answered\nb up\n"
    );
}

#[test]
fn a_stdin_without_a_line_leaves_the_prompt_waiting() {
    let place = Place::new();
    for (labels, stdin) in [(&["One"][..], &b""[..]), (&["One", "Two"], b"1\n")] {
        let first = prompt(3, "db", labels);
        let daemon = place.daemon(move |daemon| {
            daemon.answer(
                "events.subscribe",
                &snapshot(&[asking("db", &first)], &[first]),
            );
            let mut more = String::new();
            daemon.lines.read_to_string(&mut more).unwrap();
            assert_eq!(more, "", "the prompt is let alone");
        });
        let ran = run(&place, &["answer"], stdin);
        daemon.join().unwrap();
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert!(
            ran.err
                .starts_with("error: db is still waiting for an answer: stdin ended\nhint: "),
            "{}",
            ran.err
        );
        std::fs::remove_file(place.socket()).unwrap();
    }
}
