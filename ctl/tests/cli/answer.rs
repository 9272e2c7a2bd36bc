//! `answer`: prompts answered by lines of stdin, and logins with several questions.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::daemon::{CommandOutput, Daemon, Setup, failing, now, tunnel};

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

/// Sends the events of a new prompt as the daemon does: the prompt, then its tunnel.
fn asks(daemon: &mut Daemon, seq: u64, name: &str, prompt: &Value) {
    daemon.send_event(seq, &json!({"kind": "prompt", "prompt": prompt}));
    daemon.send_tunnel_event(seq + 1, &asking(name, prompt));
}

fn gone(daemon: &mut Daemon, seq: u64, id: u64) {
    daemon.send_event(seq, &json!({"kind": "prompt_gone", "id": id}));
}

fn run(setup: &Setup, args: &[&str], stdin: &[u8]) -> CommandOutput {
    let mut child = setup
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    CommandOutput::new(child.wait_with_output().unwrap())
}

#[test]
fn every_question_of_a_login_is_asked() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        let first = prompt(3, "db", &["One", "Two"]);
        daemon.answer(
            "events.subscribe",
            &snapshot(&[asking("db", &first)], &[first]),
        );
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 3, "answers": ["a b", ""]}));
        gone(daemon, 2, 3);
        daemon.send_tunnel_event(3, &tunnel("db", "connecting"));
        asks(daemon, 4, "db", &prompt(4, "db", &["Code"]));
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 4, "answers": ["123456"]}));
        gone(daemon, 6, 4);
        daemon.send_tunnel_event(7, &tunnel("db", "up"));
    });
    let run = run(&setup, &["answer", "db"], b"a b\n\n123456\n");
    daemon.join().unwrap();
    assert_eq!(
        (run.code, run.out.as_str(), run.err.as_str()),
        (0, "", "db answered\ndb answered\ndb up\n")
    );
}

#[test]
fn a_login_is_completed_before_the_prompt_of_another() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        let (one, two) = (prompt(3, "a", &["A"]), prompt(4, "b", &["B"]));
        let tunnels = [asking("a", &one), asking("b", &two)];
        daemon.answer("events.subscribe", &snapshot(&tunnels, &[one, two]));
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 3, "answers": ["1"]}));
        asks(daemon, 2, "a", &prompt(5, "a", &["A again"]));
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 5, "answers": ["2"]}));
        daemon.send_tunnel_event(4, &failing("a", "waiting", "auth_refused", &now()));
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 4, "answers": ["3"]}));
        daemon.send_tunnel_event(5, &tunnel("b", "up"));
    });
    let run = run(&setup, &["answer"], b"1\n2\n3\n");
    daemon.join().unwrap();
    assert_eq!(run.code, 1);
    assert_eq!(
        run.err,
        "a answered\na answered\nerror: a: the server\\u{1b}[2J refused\nhint: ask its owner\nb answered\nb up\n"
    );
}

#[test]
fn a_stdin_that_ended_leaves_the_prompt_open() {
    let setup = Setup::new();
    for (labels, stdin) in [(&["One"][..], &b""[..]), (&["One", "Two"], b"1\n")] {
        let first = prompt(3, "db", labels);
        let daemon = setup.daemon(move |daemon| {
            daemon.answer(
                "events.subscribe",
                &snapshot(&[asking("db", &first)], &[first]),
            );
            let mut more = String::new();
            daemon.lines.read_to_string(&mut more).unwrap();
            assert_eq!(more, "", "the prompt is let alone");
        });
        let run = run(&setup, &["answer"], stdin);
        daemon.join().unwrap();
        assert_eq!((run.code, run.out.as_str()), (1, ""));
        assert!(
            run.err
                .starts_with("error: db is still waiting for an answer: stdin ended\nhint: "),
            "{}",
            run.err
        );
        std::fs::remove_file(setup.socket()).unwrap();
    }
}
