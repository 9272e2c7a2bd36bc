//! The program against a scripted daemon: exit codes, stdout and stderr, closed pipes, bytes through `connect`.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's helpers fail with them"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A control socket at which a script speaks.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// A daemon for one client: greets it, then does as the script says.
    fn daemon(&self, script: impl FnOnce(&mut Daemon) + Send + 'static) -> JoinHandle<()> {
        let listener = UnixListener::bind(self.socket()).unwrap();
        std::thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            let mut daemon = Daemon {
                lines: BufReader::new(stream),
            };
            daemon.answer(
                "hello",
                &json!({"version": "0.1.0", "protocol": 1, "pid": 1, "features": []}),
            );
            script(&mut daemon);
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunnelctl"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("TUNNELD_SOCKET", self.socket());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

struct Daemon {
    lines: BufReader<UnixStream>,
}

impl Daemon {
    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no call: {line:?}"))
    }

    fn expect(&mut self, method: &str) -> Value {
        let call = self.hear();
        assert_eq!(call["method"], method, "{call}");
        call
    }

    fn answer(&mut self, method: &str, result: &Value) -> Value {
        let call = self.expect(method);
        self.say(&json!({"jsonrpc": "2.0", "id": call["id"], "result": result}));
        call
    }

    fn refuse(&mut self, method: &str, kind: &str, causes: &[&str]) {
        let call = self.expect(method);
        let error = json!({"code": -32000, "message": "it did not go", "data": {"kind": kind, "causes": causes}});
        self.say(&json!({"jsonrpc": "2.0", "id": call["id"], "error": error}));
    }

    fn event(&mut self, seq: u64, tunnel: &Value) {
        let params = json!({"seq": seq, "at": now(), "kind": "tunnel", "tunnel": tunnel});
        self.say(&json!({"jsonrpc": "2.0", "method": "event", "params": params}));
    }

    fn say(&mut self, message: &Value) {
        self.raw(format!("{message}\n").as_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).unwrap();
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn tunnel(name: &str, state: &str) -> Value {
    json!({
        "name": name, "state": state, "phase": null, "since": now(), "host": "u@h:22", "description": null, "desired": "up",
        "attempt": 1, "retry_at": null, "last_error": null, "prompt": null, "session": null, "reconnects": 0, "forwards": [],
    })
}

fn failing(name: &str, state: &str, kind: &str, at: &str) -> Value {
    let mut tunnel = tunnel(name, state);
    tunnel["last_error"] = json!({"kind": kind, "message": "the server\u{1b}[2J refused", "hint": "ask its owner", "at": at});
    tunnel
}

fn daemon_status() -> Value {
    json!({"version": "0.1.0", "pid": 1, "since": now(), "config_dir": "/c", "socket": "/s", "config_errors": [], "log_dropped": 0, "clients": 1})
}

fn snapshot(tunnels: &[Value]) -> Value {
    json!({"seq": 1, "tunnels": tunnels, "prompts": []})
}

fn tunnels(tunnels: &[Value]) -> Value {
    json!({ "tunnels": tunnels })
}

#[test]
fn without_a_daemon_the_way_to_one_is_shown() {
    let place = Place::new();
    for args in [
        &["status"][..],
        &["down", "--all"],
        &["logs"],
        &["reload"],
        &["connect", "db", "h:1"],
        &["shutdown"],
    ] {
        let ran = place.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (5, ""), "{args:?}");
        assert!(
            ran.err.contains("hint: start it with tunnelctl up"),
            "{}",
            ran.err
        );
    }
}

#[test]
fn a_daemon_that_hangs_is_given_up() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, 5);
    assert!(ran.err.contains("does not answer"), "{}", ran.err);
    drop(listener);
}

#[test]
fn another_protocol_is_seven() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let daemon = std::thread::spawn(move || {
        let lines = BufReader::new(listener.accept().unwrap().0);
        Daemon { lines }.refuse("hello", "unsupported_protocol", &["2"]);
    });
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, 7);
    assert!(
        ran.err.contains("speaks protocol 2, this program 1"),
        "{}",
        ran.err
    );
    daemon.join().unwrap();
}

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
    assert_eq!(ran.err, "h is written to /c/h.toml\nh idle\n");
}

#[test]
fn answers_come_from_stdin_where_there_is_no_terminal() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "needs_input")]));
        let prompt = json!({"id": 3, "tunnel": "db", "kind": "keyboard_interactive", "host": "u@h:22", "text": "Codes",
            "fields": [{"label": "One", "echo": false}, {"label": "Two", "echo": true}], "fingerprint": null, "since": now()});
        daemon.answer("prompt.list", &json!({"prompts": [prompt]}));
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 3, "answers": ["a b", ""]}));
    });
    let mut child = place
        .command(&["answer", "db"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a b\n\n").unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    daemon.join().unwrap();
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "", "db answered\n")
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

#[test]
fn wrong_usage_is_two_escaped_and_starts_nothing() {
    let place = Place::new();
    for args in [
        &["bogus\u{9b}2J"][..],
        &["up"],
        &["up", "-D", "1", "a", "b"],
        &["down"],
        &["restart"],
        &["up", "-o", "Prot=1", "h"],
        &["connect", "db", "h"],
    ] {
        let ran = place.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        assert!(
            ran.err.contains("error: ") && !ran.err.contains('\u{9b}'),
            "{}",
            ran.err
        );
    }
    assert!(!place.socket().exists());
}

/// A daemon in place of the real one: a shell script that says how it was called, then ends.
#[test]
fn a_daemon_that_dies_at_once_is_told_with_its_last_words() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let bin = place.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let fake = bin.join("tunneld");
    let script = "#!/bin/sh\nwhile [ \"$1\" != --log-file ]; do shift; done\necho the configuration is broken >>\"$2\"\nexit 2\n";
    std::fs::write(&fake, script).unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let own = bin.join("tunnelctl");
    std::fs::copy(env!("CARGO_BIN_EXE_tunnelctl"), &own).unwrap();
    let mut command = Command::new(own);
    let socket = place.socket();
    command
        .args(["up", "db"])
        .env_clear()
        .env("HOME", place.dir.path())
        .env("TUNNELD_SOCKET", &socket)
        .stdin(Stdio::null());
    let ran = Ran::of(command.output().unwrap());
    assert_eq!(ran.code, 5);
    assert!(
        ran.err
            .contains("  the configuration is broken\nhint: prove the configuration"),
        "{}",
        ran.err
    );
}
