//! tunnelctl at a terminal: the echo is off during a hidden answer and on again after it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Child;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::json;

use crate::answer::prompt;
use crate::daemon::{Daemon, Setup, tunnel};

/// A pseudo terminal: tunnelctl uses `terminal`, the test reads and writes `controller`.
struct Terminal {
    controller: File,
    terminal: String,
    /// Keeps the terminal open: its settings are reset when the last process closes it.
    _kept: OwnedFd,
}

impl Terminal {
    fn open() -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let terminal = ptsname(&controller, Vec::new())
            .unwrap()
            .into_string()
            .unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let kept = rustix::fs::open(&terminal, flags, Mode::empty()).unwrap();
        Self {
            controller: File::from(controller),
            terminal,
            _kept: kept,
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.controller)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
    }

    /// Reads the output until `end` appears in it.
    fn read_until(&mut self, end: &str) -> String {
        let mut shown = String::new();
        let mut buffer = [0; 256];
        while !shown.contains(end) {
            let count = self.controller.read(&mut buffer).unwrap();
            shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        shown
    }

    /// Starts `tunnelctl answer` at this terminal and returns when it reads a hidden answer.
    fn start_answer(&mut self, setup: &Setup) -> Child {
        // A session leader without a controlling terminal gets one by opening it.
        let script = "exec \"$0\" answer <\"$1\" >\"$1\" 2>\"$1\"";
        let own = env!("CARGO_BIN_EXE_tunnelctl");
        let mut command = setup.command(&["run-detached", "/bin/sh", "-c", script, own]);
        let child = command.arg(&self.terminal).spawn().unwrap();
        self.read_until("Code: ");
        while self.echoes() {
            std::thread::yield_now();
        }
        child
    }
}

/// Answers the subscription with a snapshot that has one open prompt.
fn ask(daemon: &mut Daemon) {
    let asked = prompt(3, "db", &["Code"]);
    let mut asking = tunnel("db", "needs_input");
    asking["prompt"] = asked.clone();
    let snapshot = json!({"seq": 1, "tunnels": [asking], "prompts": [asked]});
    daemon.answer("events.subscribe", &snapshot);
    let call = daemon.answer("prompt.attend", &json!({}));
    assert_eq!(call["params"], json!({"names": []}));
}

#[test]
fn each_signal_during_a_hidden_answer_restores_the_echo() {
    for (signal, code) in [
        (Signal::TERM, 143),
        (Signal::HUP, 129),
        (Signal::QUIT, 131),
        (Signal::INT, 130),
    ] {
        let setup = Setup::new();
        let daemon = setup.daemon(|daemon| {
            ask(daemon);
            daemon.lines.read_to_end(&mut Vec::new()).unwrap();
        });
        let mut terminal = Terminal::open();
        let mut child = terminal.start_answer(&setup);
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal:?}");
        assert!(terminal.echoes(), "{signal:?}");
        daemon.join().unwrap();
    }
}

#[test]
fn a_hidden_answer_is_not_shown() {
    let setup = Setup::new();
    let daemon = setup.daemon(|daemon| {
        ask(daemon);
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 3, "answers": ["s3cret"]}));
        daemon.send_tunnel_event(2, &tunnel("db", "up"));
    });
    let mut terminal = Terminal::open();
    let mut child = terminal.start_answer(&setup);
    terminal.controller.write_all(b"s3cret\n").unwrap();
    let shown = terminal.read_until("db up");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!shown.contains("s3cret"), "{shown:?}");
    assert!(terminal.echoes());
    daemon.join().unwrap();
}

#[test]
fn a_prompt_that_was_answered_elsewhere_ends_without_a_key() {
    let setup = Setup::new();
    let (begin, begun) = std::sync::mpsc::channel();
    let daemon = setup.daemon(move |daemon| {
        ask(daemon);
        begun.recv().unwrap();
        daemon.send_event(2, &json!({"kind": "prompt_gone", "id": 3}));
        daemon.send_tunnel_event(3, &tunnel("db", "up"));
        // Until tunnelctl has ended.
        daemon.lines.read_to_end(&mut Vec::new()).unwrap();
    });
    let mut terminal = Terminal::open();
    let mut child = terminal.start_answer(&setup);
    begin.send(()).unwrap();
    terminal.read_until("the prompt is closed");
    child.wait().unwrap();
    assert!(terminal.echoes());
    daemon.join().unwrap();
}
