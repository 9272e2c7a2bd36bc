//! Getting to a daemon at all: none, a hanging one, another protocol, wrong usage.

use std::io::{BufReader, Read as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::daemon::{Daemon, Place, Ran, snapshot, tunnel, tunnels};

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

/// A place with a tunnelctl of its own, and a daemon beside it that is a shell script.
struct Installed {
    place: Place,
    bin: PathBuf,
}

impl Installed {
    fn new(script: Option<&str>) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let place = Place::new();
        let bin = place.dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        if let Some(script) = script {
            let fake = bin.join("tunneld");
            std::fs::write(&fake, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::copy(env!("CARGO_BIN_EXE_tunnelctl"), bin.join("tunnelctl")).unwrap();
        Self { place, bin }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(self.bin.join("tunnelctl"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.place.dir.path())
            .env("PATH", "/nowhere:/bin:/usr/bin")
            .env("TUNNELD_SOCKET", self.place.socket())
            .stdin(Stdio::null());
        Ran::of(command.output().unwrap())
    }
}

#[test]
fn a_daemon_that_dies_at_once_is_told_with_its_last_words() {
    let script = "while [ \"$1\" != --log-file ]; do shift; done\necho the configuration is broken >>\"$2\"\nexit 2";
    let ran = Installed::new(Some(script)).run(&["up", "db"]);
    assert_eq!(ran.code, 5);
    assert!(
        ran.err
            .contains("  the configuration is broken\nhint: check the configuration"),
        "{}",
        ran.err
    );
}

#[test]
fn without_a_tunneld_up_says_what_check_says() {
    let installed = Installed::new(None);
    // One that may not be run is none.
    std::fs::write(installed.bin.join("tunneld"), "").unwrap();
    let (up, check) = (installed.run(&["up", "db"]), installed.run(&["check"]));
    assert_eq!((up.code, check.code), (5, 5));
    assert_eq!(up.err, check.err);
    assert!(
        up.err
            .starts_with("error: tunneld was not found beside tunnelctl or in PATH\n")
            && up.err.contains("\nhint: install tunneld beside tunnelctl"),
        "{}",
        up.err
    );
}

#[test]
fn check_passes_the_form_of_its_output_on() {
    let installed = Installed::new(Some("echo \"$@\""));
    assert_eq!(installed.run(&["check"]).out, "check\n");
    let json = installed.run(&["check", "--output", "json", "--config-dir", "/c"]);
    assert_eq!(json.out, "check --output json --config-dir /c\n");
}

#[test]
fn a_daemon_that_was_started_may_take_its_time() {
    let installed = Installed::new(Some(
        "echo started >\"$HOME/started\"; exec timeout 60 cat \"$HOME/started\" >/dev/null",
    ));
    let fifo = installed.place.dir.path().join("started");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let (socket, started) = (installed.place.socket(), fifo.clone());
    let daemon = std::thread::spawn(move || {
        std::fs::read(&started).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        // The first greeting is left without an answer until its client has lost its patience.
        let mut early = listener.accept().unwrap().0;
        early.read_to_end(&mut Vec::new()).unwrap();
        let lines = BufReader::new(listener.accept().unwrap().0);
        let mut daemon = Daemon { lines };
        daemon.greet();
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "stopped")]));
        daemon.answer("tunnel.up", &tunnels(&[tunnel("db", "up")]));
    });
    let ran = installed.run(&["up", "db"]);
    daemon.join().unwrap();
    std::fs::write(&fifo, "").unwrap();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.ends_with("db up\n"), "{}", ran.err);
}
