use super::*;

const FULL: &str = "Too many open files";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn hit(text: &str) -> Hit {
    Hit {
        at: at(100),
        text: text.to_owned(),
        error: FULL.to_owned(),
    }
}

fn evidence(log: &str) -> Evidence<'_> {
    Evidence {
        log,
        hits: vec![hit("socket(AF_UNIX, SOCK_STREAM, 0)")],
        faults: Vec::new(),
        short_streams: Vec::new(),
        remote_ports: [22, 7],
        refused: false,
        reloaded_by_command: false,
        config_dir: "/h/config",
    }
}

fn panic_in(version: &str, function: &str) -> String {
    format!(
        "thread 'main' (1) panicked at /r/tokio-{version}/src/runtime/io/driver.rs:279:27:\n\
         failed to wake I/O driver: Os {{ code: 5 }}\nstack backtrace:\n   \
         0: __rustc::rust_begin_unwind\n             at /rustc/x.rs:1:1\n   \
         1: core::result::unwrap_failed\n   2: {function}\n   3: tokio::runtime::driver::IoHandle::unpark\n"
    )
}

const UNPARK: &str = "tokio::runtime::io::driver::Handle::unpark";

fn eventfd() -> Hit {
    hit("write(4<anon_inode:[eventfd]>, \"\", 8)")
}

#[test]
fn a_known_panic_counts_only_at_its_place_and_with_a_hit_on_its_descriptor() {
    let log = panic_in("1.54.1", UNPARK);
    let verdict = |log: &str, hit: Hit| {
        let hits = vec![hit];
        Evidence {
            hits,
            ..evidence(log)
        }
        .verdict()
    };
    assert_eq!(verdict(&log, eventfd()), Verdict::Impossible);
    let torn = "runtime::io\u{1}::driver::Handle";
    let torn = log.replace("runtime::io::driver::Handle", torn);
    let torn = torn.replace('\u{1}', "2026-12-01T05:53:28.936Z  INFO up\n");
    assert_eq!(verdict(&torn, eventfd()), Verdict::Impossible);
    let other_hit = hit("write(4</h/file>, \"\", 8)");
    assert!(matches!(verdict(&log, other_hit), Verdict::Wrong(_)));
    let other_function = panic_in("1.54.1", "tokio::runtime::io::driver::Driver::turn");
    assert!(matches!(
        verdict(&other_function, eventfd()),
        Verdict::Wrong(_)
    ));
    let other_crate = log.replace("/tokio-", "/tokio-rustls-");
    assert!(matches!(
        verdict(&other_crate, eventfd()),
        Verdict::Wrong(_)
    ));
    let two = log + &panic_in("1.54.1", "tunneld::main");
    assert!(matches!(verdict(&two, eventfd()), Verdict::Wrong(_)));
}

#[test]
fn beside_a_known_panic_only_what_stopped_after_it_is_explained() {
    let log = panic_in("1.54.1", UNPARK);
    let verdict = |seconds, kind| {
        let fault = Fault {
            at: at(seconds),
            kind,
            text: "a fault".into(),
        };
        Evidence {
            hits: vec![eventfd()],
            faults: vec![fault],
            ..evidence(&log)
        }
        .verdict()
    };
    assert_eq!(verdict(101, FaultKind::Stopped), Verdict::Impossible);
    let wrong = Verdict::Wrong(vec!["a fault".into()]);
    assert_eq!(verdict(99, FaultKind::Stopped), wrong);
    assert_eq!(verdict(101, FaultKind::Wrong), wrong);
}

#[test]
fn a_refusal_is_one_line_with_the_deed_and_the_cause() {
    let refused = |log: &str| {
        Evidence {
            refused: true,
            ..evidence(log)
        }
        .verdict()
    };
    let line = "tunneld: listening at /h/s failed: Too many open files (os error 24)";
    let log = format!("2026-12-01T05:17:00.027Z  INFO starting\n{line}\n  hint: fix the cause\n");
    assert_eq!(refused(&log), Verdict::Refused(line.to_owned()));
    for unclear in [
        "",
        "  hint: fix the cause\n",
        "tunneld: Too many open files\n",
        "tunneld: listening at /h/s failed\n",
        "tunneld: listening at /h/s failed: File exists (os error 17)\n",
        "tunneld: failed to create: Os { code: 24, message: \"Too many open files\" }\n",
        &format!("{line}\n{line}\n"),
        &format!("some text\n{line}\n"),
        &format!("2026-12-01T05:17:00.027Z ERROR no listener\n{line}\n"),
        &format!("{line}\n{}", panic_in("1.54.1", "tunneld::main")),
    ] {
        assert!(matches!(refused(unclear), Verdict::Wrong(_)), "{unclear}");
    }
    let locked = Hit {
        error: "Resource temporarily unavailable".into(),
        ..hit("flock(9</h/s.lock>, LOCK_EX|LOCK_NB)")
    };
    let running = "tunneld: tunneld is already running at /h/s";
    assert_eq!(clear_line(running, &[locked]), Ok(running));
    assert!(clear_line(running, &[hit("open(\"/h\")")]).is_err());
    let loader = "tunneld: error while loading shared libraries: libc.so.6: cannot read\n";
    assert_eq!(refused(loader), Verdict::NotLoaded);
}

#[test]
fn a_reload_by_command_is_right_only_if_the_watcher_was_hit() {
    let verdict = |text| {
        Evidence {
            hits: vec![hit(text)],
            reloaded_by_command: true,
            ..evidence("")
        }
        .verdict()
    };
    let watcher = "read(9<anon_inode:inotify>, 0x1, 1024)";
    assert_eq!(verdict(watcher), Verdict::ReloadedByCommand);
    let other = "openat(AT_FDCWD</h>, \"/h/config/t.toml\", O_RDONLY)";
    assert!(matches!(verdict(other), Verdict::Wrong(_)));
}

#[test]
fn a_short_stream_is_a_fault_unless_a_call_of_its_connection_failed() {
    let verdict = |text, from| {
        let stream = ShortStream {
            from: at(from),
            to: at(from + 1),
            text: "short".into(),
        };
        Evidence {
            hits: vec![hit(text)],
            short_streams: vec![stream],
            ..evidence("")
        }
        .verdict()
    };
    let session = "recvfrom(9<TCP:[127.0.0.1:40->127.0.0.1:22]>, 0x1, 9)";
    assert_eq!(verdict(session, 99), Verdict::Right);
    assert!(matches!(verdict(session, 102), Verdict::Wrong(_)));
    assert!(matches!(
        verdict("statx(AT_FDCWD, \"/x\")", 99),
        Verdict::Wrong(_)
    ));
}

#[test]
fn a_life_without_a_hit_proves_nothing() {
    let hits = Vec::new();
    let verdict = Evidence {
        hits,
        ..evidence("")
    }
    .verdict();
    assert_eq!(verdict, Verdict::NotHit);
}
