//! Getting to a daemon at all: none, a hanging one, another protocol, wrong usage.

use std::io::BufReader;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::daemon::{Daemon, Place, Ran};

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
