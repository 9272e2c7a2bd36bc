//! Connecting to a daemon: none, a hung one, another protocol version, wrong usage.

use std::io::{BufReader, Read as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::daemon::{CommandOutput, Daemon, Setup, snapshot, tunnel, tunnels};

#[test]
fn without_a_daemon_a_hint_says_how_to_start_one() {
    let setup = Setup::new();
    for args in [
        &["status"][..],
        &["down", "--all"],
        &["logs"],
        &["reload"],
        &["shutdown"],
    ] {
        let run = setup.run(args);
        assert_eq!((run.code, run.out.as_str()), (5, ""), "{args:?}");
        assert!(
            run.err.contains("hint: start it with tunnelctl up"),
            "{}",
            run.err
        );
    }
}

#[test]
fn a_hung_daemon_ends_the_command_with_5() {
    let setup = Setup::new();
    let listener = UnixListener::bind(setup.socket()).unwrap();
    let run = setup.run(&["status"]);
    assert_eq!(run.code, 5);
    assert!(run.err.contains("does not answer"), "{}", run.err);
    drop(listener);
}

#[test]
fn another_protocol_version_exits_with_7() {
    let setup = Setup::new();
    let listener = UnixListener::bind(setup.socket()).unwrap();
    let daemon = std::thread::spawn(move || {
        let lines = BufReader::new(listener.accept().unwrap().0);
        Daemon { lines }.refuse("hello", "unsupported_protocol", &["2"]);
    });
    let run = setup.run(&["status"]);
    assert_eq!(run.code, 7);
    assert!(
        run.err.contains("supports protocol 2, this program 1"),
        "{}",
        run.err
    );
    daemon.join().unwrap();
}

#[test]
fn wrong_usage_exits_with_2_escapes_and_starts_nothing() {
    let setup = Setup::new();
    for args in [
        &["bogus\u{9b}2J"][..],
        &["up"],
        &["down"],
        &["restart"],
        &["up", "-o", "Prot=1", "h"],
        &["connect", "db", "h"],
    ] {
        let run = setup.run(args);
        assert_eq!(run.code, 2, "{args:?}: {}", run.err);
        assert!(
            run.err.contains("error: ") && !run.err.contains('\u{9b}'),
            "{}",
            run.err
        );
    }
    assert!(!setup.socket().exists());
}

/// A setup with a copy of tunnelctl, and a shell script beside it that acts as the daemon.
struct Installed {
    setup: Setup,
    bin: PathBuf,
}

impl Installed {
    fn new(script: Option<&str>) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let setup = Setup::new();
        let bin = setup.dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        if let Some(script) = script {
            let fake = bin.join("tunneld");
            std::fs::write(&fake, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::copy(env!("CARGO_BIN_EXE_tunnelctl"), bin.join("tunnelctl")).unwrap();
        Self { setup, bin }
    }

    fn run(&self, args: &[&str]) -> CommandOutput {
        let mut command = Command::new(self.bin.join("tunnelctl"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.setup.dir.path())
            .env("PATH", "/nowhere:/bin:/usr/bin")
            .env("TUNNELD_SOCKET", self.setup.socket())
            .stdin(Stdio::null());
        CommandOutput::new(command.output().unwrap())
    }
}

#[test]
fn a_daemon_that_exits_at_once_is_reported_with_its_last_log_lines() {
    let script = "while [ \"$1\" != --log-file ]; do shift; done\necho the configuration is broken >>\"$2\"\nexit 2";
    let run = Installed::new(Some(script)).run(&["up", "db"]);
    assert_eq!(run.code, 5);
    assert!(
        run.err
            .contains("  the configuration is broken\nhint: check the configuration"),
        "{}",
        run.err
    );
}

#[test]
fn a_missing_tunneld_is_the_same_error_for_up_and_check() {
    let installed = Installed::new(None);
    // A file that is not executable does not count.
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
fn check_passes_its_options_on() {
    let installed = Installed::new(Some("echo \"$@\""));
    assert_eq!(installed.run(&["check"]).out, "check\n");
    let json = installed.run(&["check", "--output", "json", "--config-dir", "/c"]);
    assert_eq!(json.out, "check --output json --config-dir /c\n");
}

#[test]
fn a_started_daemon_may_be_slow() {
    let installed = Installed::new(Some(
        "echo started >\"$HOME/started\"; exec timeout 60 cat \"$HOME/started\" >/dev/null",
    ));
    let fifo = installed.setup.dir.path().join("started");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let (socket, started) = (installed.setup.socket(), fifo.clone());
    let daemon = std::thread::spawn(move || {
        std::fs::read(&started).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        // The first `hello` stays unanswered until its client has timed out.
        let mut early = listener.accept().unwrap().0;
        early.read_to_end(&mut Vec::new()).unwrap();
        let lines = BufReader::new(listener.accept().unwrap().0);
        let mut daemon = Daemon { lines };
        daemon.welcome();
        daemon.answer("events.subscribe", &snapshot(&[tunnel("db", "stopped")]));
        daemon.answer("tunnel.up", &tunnels(&[tunnel("db", "up")]));
    });
    let run = installed.run(&["up", "db"]);
    daemon.join().unwrap();
    std::fs::write(&fifo, "").unwrap();
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.ends_with("db up\n"), "{}", run.err);
}

#[test]
fn an_unknown_command_never_suggests_to_stop_everything() {
    let setup = Setup::new();
    for (command, hint) in [
        ("rm", "down --remove"),
        ("sotp", "--help"),
        ("kill", "tunnelctl down NAME"),
    ] {
        let run = setup.run(&[command, "db"]);
        assert_eq!(run.code, 2, "{}", run.err);
        assert!(!run.err.contains("shutdown"), "{}", run.err);
        assert!(run.err.contains(hint) || command == "sotp", "{}", run.err);
    }
}
