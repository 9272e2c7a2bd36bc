//! A scripted daemon and the directory with its socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tempfile::TempDir;
use tunneld_proto::failure::FailureKind;

/// A temporary home directory with the control socket of a scripted daemon.
pub(crate) struct Setup {
    pub(crate) dir: TempDir,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Starts a daemon for one client: answers `hello`, then runs the script.
    pub(crate) fn daemon(
        &self,
        script: impl FnOnce(&mut Daemon) + Send + 'static,
    ) -> JoinHandle<()> {
        let listener = UnixListener::bind(self.socket()).unwrap();
        std::thread::spawn(move || {
            script(&mut Daemon::accept(&listener));
        })
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunnelctl"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("TUNNELD_SOCKET", self.socket());
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> CommandOutput {
        CommandOutput::new(self.command(args).output().unwrap())
    }
}

pub(crate) struct CommandOutput {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl CommandOutput {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) struct Daemon {
    pub(crate) lines: BufReader<UnixStream>,
}

impl Daemon {
    /// Accepts the next client and answers its `hello`.
    pub(crate) fn accept(listener: &UnixListener) -> Self {
        let mut daemon = Self {
            lines: BufReader::new(listener.accept().unwrap().0),
        };
        daemon.welcome();
        daemon
    }

    pub(crate) fn welcome(&mut self) {
        let welcome = json!({"version": "0.1.0", "protocol": 1, "pid": 1, "features": []});
        self.answer("hello", &welcome);
    }

    pub(crate) fn read_call(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no call: {line:?}"))
    }

    pub(crate) fn expect(&mut self, method: &str) -> Value {
        let call = self.read_call();
        assert_eq!(call["method"], method, "{call}");
        call
    }

    pub(crate) fn answer(&mut self, method: &str, result: &Value) -> Value {
        let call = self.expect(method);
        self.send(&json!({"jsonrpc": "2.0", "id": call["id"], "result": result}));
        call
    }

    pub(crate) fn refuse(&mut self, method: &str, kind: &str, causes: &[&str]) {
        let call = self.expect(method);
        let error = json!({"code": -32000, "message": "it did not go", "data": {"kind": kind, "causes": causes}});
        self.send(&json!({"jsonrpc": "2.0", "id": call["id"], "error": error}));
    }

    pub(crate) fn send_tunnel_event(&mut self, seq: u64, tunnel: &Value) {
        self.send_event(seq, &json!({"kind": "tunnel", "tunnel": tunnel}));
    }

    pub(crate) fn send_event(&mut self, seq: u64, body: &Value) {
        let mut params = body.clone();
        params["seq"] = seq.into();
        params["at"] = now().into();
        self.send(&json!({"jsonrpc": "2.0", "method": "event", "params": params}));
    }

    pub(crate) fn send(&mut self, message: &Value) {
        self.send_bytes(format!("{message}\n").as_bytes());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).unwrap();
    }
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

pub(crate) fn tunnel(name: &str, state: &str) -> Value {
    json!({
        "name": name, "state": state, "phase": null, "since": now(), "host": "u@h:22", "description": null, "desired": "up",
        "attempt": 1, "retry_at": null, "last_error": null, "prompt": null, "session": null, "reconnects": 0, "forwards": [],
    })
}

pub(crate) fn failing(name: &str, state: &str, kind: &str, at: &str) -> Value {
    let mut tunnel = tunnel(name, state);
    let ends_wait = FailureKind::from(kind.to_owned()).ends_wait();
    tunnel["last_error"] = json!({"kind": kind, "message": "the server\u{1b}[2J refused", "hint": "ask its owner", "at": at, "ends_wait": ends_wait});
    tunnel
}

pub(crate) fn daemon_status() -> Value {
    json!({"version": "0.1.0", "pid": 1, "since": now(), "config_dir": "/c", "socket": "/s", "config_errors": [], "log_dropped": 0, "clients": 1})
}

pub(crate) fn snapshot(tunnels: &[Value]) -> Value {
    json!({"seq": 1, "tunnels": tunnels, "prompts": []})
}

pub(crate) fn tunnels(tunnels: &[Value]) -> Value {
    json!({ "tunnels": tunnels })
}
