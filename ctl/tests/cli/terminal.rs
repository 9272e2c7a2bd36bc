//! The program at a terminal: the echo of a hidden answer.

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
use crate::daemon::{Daemon, Place, tunnel};

/// A terminal whose near side is the program's.
struct Terminal {
    far: File,
    near: String,
    /// A terminal that nobody has open any more would begin anew.
    _kept: OwnedFd,
}

impl Terminal {
    fn open() -> Self {
        let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&far).unwrap();
        unlockpt(&far).unwrap();
        let near = ptsname(&far, Vec::new()).unwrap().into_string().unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let kept = rustix::fs::open(&near, flags, Mode::empty()).unwrap();
        Self {
            far: File::from(far),
            near,
            _kept: kept,
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.far)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
    }

    /// Reads until `end` has been shown.
    fn shows(&mut self, end: &str) -> String {
        let mut shown = String::new();
        let mut buffer = [0; 256];
        while !shown.contains(end) {
            let count = self.far.read(&mut buffer).unwrap();
            shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        shown
    }

    /// `answer` at this terminal, asking for a hidden answer.
    fn asked(&mut self, place: &Place) -> Child {
        // A shell in a session of its own makes the terminal its own by opening it.
        let script = "exec \"$0\" answer <\"$1\" >\"$1\" 2>\"$1\"";
        let own = env!("CARGO_BIN_EXE_tunnelctl");
        let mut command = place.command(&["run-detached", "/bin/sh", "-c", script, own]);
        let child = command.arg(&self.near).spawn().unwrap();
        self.shows("Code: ");
        while self.echoes() {
            std::thread::yield_now();
        }
        child
    }
}

/// Tells the client of a prompt that waits.
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
fn whatever_ends_a_hidden_answer_gives_the_echo_back() {
    for (signal, code) in [
        (Signal::TERM, 143),
        (Signal::HUP, 129),
        (Signal::QUIT, 131),
        (Signal::INT, 130),
    ] {
        let place = Place::new();
        let daemon = place.daemon(|daemon| {
            ask(daemon);
            daemon.lines.read_to_end(&mut Vec::new()).unwrap();
        });
        let mut terminal = Terminal::open();
        let mut child = terminal.asked(&place);
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal:?}");
        assert!(terminal.echoes(), "{signal:?}");
        daemon.join().unwrap();
    }
}

#[test]
fn a_hidden_answer_is_not_shown() {
    let place = Place::new();
    let daemon = place.daemon(|daemon| {
        ask(daemon);
        let call = daemon.answer("prompt.answer", &json!({}));
        assert_eq!(call["params"], json!({"id": 3, "answers": ["s3cret"]}));
        daemon.event(2, &tunnel("db", "up"));
    });
    let mut terminal = Terminal::open();
    let mut child = terminal.asked(&place);
    terminal.far.write_all(b"s3cret\n").unwrap();
    let shown = terminal.shows("db up");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!shown.contains("s3cret"), "{shown:?}");
    assert!(terminal.echoes());
    daemon.join().unwrap();
}
