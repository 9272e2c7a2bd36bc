//! `status`, `reload` and the rest that prints: tables, arrays, closed pipes.

use std::io::BufRead as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::{Daemon, Setup, daemon_status, failing, now, snapshot, tunnel, tunnels};

#[test]
fn status_prints_a_table_or_one_array() {
    let setup = Setup::new();
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
    let daemon = setup.daemon(script);
    let run = setup.run(&["status"]);
    daemon.join().unwrap();
    assert_eq!(run.code, 0);
    assert!(
        run.out
            .starts_with("NAME  STATE    HOST    FORWARDS  SINCE/NEXT\ndb    waiting  u@h:22"),
        "{}",
        run.out
    );
    assert!(
        run.out
            .contains("db: the server\\u{1b}[2J refused\n  hint: ask its owner\n"),
        "{}",
        run.out
    );
    assert!(!run.out.contains('\x1b'), "colour without a terminal");

    std::fs::remove_file(setup.socket()).unwrap();
    let daemon = setup.daemon(script);
    let run = setup.run(&["status", "--output", "json", "w*"]);
    daemon.join().unwrap();
    assert_eq!(run.code, 0);
    let array: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(
        (array.as_array().unwrap().len(), &array[0]["name"]),
        (1, &json!("web"))
    );

    std::fs::remove_file(setup.socket()).unwrap();
    let daemon = setup.daemon(script);
    let run = setup.run(&["status", "--color=always", "db"]);
    daemon.join().unwrap();
    assert_eq!(run.code, 3);
    assert!(run.out.contains("\x1b[33mwaiting\x1b[0m"), "{:?}", run.out);
}

#[test]
fn an_unknown_name_exits_with_4() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        daemon.answer("tunnel.status", &tunnels(&[tunnel("db", "up")]));
    });
    let run = setup.run(&["status", "bd\u{1b}[2J"]);
    daemon.join().unwrap();
    assert_eq!(run.code, 4);
    assert!(
        run.err.contains("there is no tunnel bd\\u{1b}[2J"),
        "{}",
        run.err
    );
}

#[test]
fn reload_with_a_broken_file_exits_with_2() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        let fault = json!({"file": "/c/a.toml", "line": 1, "column": 1, "message": "m", "rendered": "error: m\n --> a.toml:1:1"});
        daemon.answer("config.reload", &json!({"added": ["x"], "changed": [], "removed": [], "errors": [fault]}));
    });
    let run = setup.run(&["reload"]);
    daemon.join().unwrap();
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(
        run.err
            .starts_with("added: x\nerror: m\n --> a.toml:1:1\nerror: errors in: /c/a.toml\nhint: tunnels in these files keep their last good configuration"),
        "{}",
        run.err
    );
}

#[test]
fn a_closed_pipe_is_not_an_error_but_a_full_disk_is() {
    let script = |daemon: &mut Daemon| {
        daemon.answer("tunnel.status", &tunnels(&[tunnel("db", "up")]));
        // The client may end before it sends its call.
        let mut line = String::new();
        daemon.lines.read_line(&mut line).unwrap();
    };
    let setup = Setup::new();
    let daemon = setup.daemon(script);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = setup.command(&["status"]).stdout(writer).output().unwrap();
    daemon.join().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );

    if Path::new("/dev/full").exists() {
        std::fs::remove_file(setup.socket()).unwrap();
        let daemon = setup.daemon(script);
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = setup.command(&["status"]).stdout(full).output().unwrap();
        daemon.join().unwrap();
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn watching_prints_each_change_and_ends_with_the_daemon() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "connecting")]));
        daemon.send_tunnel_event(2, &tunnel("db", "up"));
        daemon.send_event(3, &json!({"kind": "bye"}));
    });
    let run = setup.run(&["status", "--watch", "--output=json", "-q"]);
    daemon.join().unwrap();
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    let states: Vec<Value> = run
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].clone())
        .collect();
    assert_eq!(states, ["connecting", "up"]);
}

#[test]
fn watching_a_name_does_not_report_the_removal_of_others() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        let mut tagged = tunnel("web", "up");
        tagged["tags"] = json!(["x"]);
        daemon.answer(
            "events.subscribe",
            &snapshot(&[tunnel("db", "up"), tunnel("other", "up"), tagged]),
        );
        for (seq, name) in [(2, "other"), (3, "db"), (4, "web")] {
            daemon.send_event(seq, &json!({"kind": "removed", "name": name}));
        }
        daemon.send_event(5, &json!({"kind": "bye"}));
    });
    let run = setup.run(&["status", "db", "--tag=x", "--watch"]);
    daemon.join().unwrap();
    assert_eq!(
        (run.code, run.out.as_str(), run.err.as_str()),
        (
            0,
            "db up\nweb up\ndb removed\nweb removed\n",
            "the daemon has stopped\n"
        )
    );
}

#[test]
fn a_stopped_daemon_and_a_lost_connection_are_reported_differently() {
    type Script = fn(&mut Daemon);
    let follow: [(&[&str], Script); 3] = [
        (&["logs", "-f"], |daemon| {
            daemon.answer("log.tail", &json!({"lines": []}));
            daemon.answer("events.subscribe", &snapshot(&[]));
        }),
        (&["events", "--output", "json"], |daemon| {
            daemon.answer("events.subscribe", &snapshot(&[]));
        }),
        (&["status", "--watch", "--output", "json"], |daemon| {
            daemon.answer("events.subscribe", &snapshot(&[]));
        }),
    ];
    let setup = Setup::new();
    for (args, script) in follow {
        for stops in [true, false] {
            let daemon = setup.daemon(move |daemon| {
                script(daemon);
                if stops {
                    daemon.send_event(2, &json!({"kind": "bye"}));
                }
            });
            let run = setup.run(args);
            daemon.join().unwrap();
            let (code, word) = match stops {
                true => (0, "the daemon has stopped\n"),
                false => (5, "error: the daemon has closed the connection\n"),
            };
            assert_eq!(run.code, code, "{args:?}: {}", run.err);
            assert!(run.err.starts_with(word), "{args:?}: {}", run.err);
            std::fs::remove_file(setup.socket()).unwrap();
        }
    }
}

#[test]
fn a_name_in_a_broken_file_exits_with_2() {
    let setup = Setup::new();
    let file = setup.dir.path().join("a.toml");
    std::fs::write(&file, "[tunnel.bd]\nhost = \n").unwrap();
    for (args, code, word) in [
        (["status", "bd"], 2, "bd is configured in "),
        (["down", "bd"], 2, "which has errors\n  error: m\n"),
        (
            ["status", "bt"],
            4,
            "or the tunnel is in a file that has errors: ",
        ),
    ] {
        let mut status = daemon_status();
        status["config_errors"] =
            json!([{"file": file, "line": 2, "column": 8, "message": "m", "rendered": "error: m"}]);
        let daemon = setup.daemon(move |daemon| {
            daemon.answer("tunnel.status", &tunnels(&[tunnel("web", "up")]));
            daemon.answer("daemon.status", &status);
        });
        let run = setup.run(&args);
        daemon.join().unwrap();
        assert_eq!(run.code, code, "{args:?}: {}", run.err);
        assert!(run.err.contains(word), "{args:?}: {}", run.err);
        std::fs::remove_file(setup.socket()).unwrap();
    }
}

#[test]
fn down_remove_removes_ad_hoc_tunnels() {
    let setup = Setup::new();
    for (args, code) in [
        (&["down", "--all", "--remove"][..], 0),
        (&["down", "*", "--remove"], 0),
        (&["down", "a", "b", "c", "--remove"], 2),
    ] {
        let daemon = setup.daemon(|daemon| {
            let all = ["a", "b", "c"].map(|name| tunnel(name, "stopped"));
            daemon.answer("tunnel.status", &tunnels(&all));
            daemon.answer("tunnel.down", &tunnels(&all));
            daemon.answer("tunnel.remove", &json!({}));
            daemon.refuse("tunnel.remove", "invalid_params", &[]);
            let call = daemon.answer("tunnel.remove", &json!({}));
            assert_eq!(call["params"], json!({"name": "c"}));
        });
        let run = setup.run(args);
        daemon.join().unwrap();
        assert_eq!(run.code, code, "{args:?}: {}", run.err);
        let removed = run.err.contains("a removed\nc removed\n");
        assert!(removed && !run.err.contains("b removed"), "{}", run.err);
        std::fs::remove_file(setup.socket()).unwrap();
    }
}
