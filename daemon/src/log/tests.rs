//! The log with a real file as its sink.

use super::*;
use std::io::Read as _;

fn logged_to_file(filter: &str, act: impl FnOnce(&Log)) -> (Log, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let sink = Sink::open(Some(&path)).unwrap();
    let (log, subscriber) = Log::build(parse_filter(filter).unwrap(), sink).unwrap();
    tracing::dispatcher::with_default(&subscriber, || act(&log));
    log.flush(Duration::from_secs(5));
    let mut text = String::new();
    std::fs::File::open(&path)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    (log, text)
}

#[test]
fn lines_name_their_tunnel_and_untrusted_text_is_escaped() {
    let (log, text) = logged_to_file("info", |_| {
        tracing::info!(tunnel = "db", port = 5432, "listening");
        tracing::warn!(tunnel = "db", "banner: {}", "\u{1b}[2J");
        tracing::debug!("not shown");
        tracing::error!("all");
    });
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.contains(" INFO tunnel=db listening port=5432\n"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
    let lines = log.ring().tail(Some("db"), None);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0].message, "listening port=5432");
    assert_eq!(lines[1].level, "warn");
    assert_eq!(log.ring().tail(None, None).len(), 3);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn events_inside_a_span_get_the_tunnel_of_the_span() {
    let (log, _) = logged_to_file("info", |_| {
        tracing::info_span!("tunnel", tunnel = "db").in_scope(|| tracing::info!("inside"));
    });
    assert_eq!(log.ring().tail(Some("db"), None).len(), 1);
}

#[test]
fn the_filter_can_be_changed_while_the_log_runs() {
    let (log, text) = logged_to_file("warn", |log| {
        tracing::info!("before");
        assert!(log.set_filter("=[nonsense").is_err());
        log.set_filter("debug").unwrap();
        tracing::debug!("after");
    });
    assert!(!text.contains("before") && text.contains("after"), "{text}");
    assert_eq!(log.ring().tail(None, None).len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_lines_and_is_counted() {
    let sink = Sink::open(Some(Path::new("/dev/full"))).unwrap();
    let (log, subscriber) = Log::build(parse_filter("info").unwrap(), sink).unwrap();
    tracing::dispatcher::with_default(&subscriber, || {
        for _ in 0..10 {
            tracing::info!("lost");
        }
    });
    log.flush(Duration::from_secs(5));
    assert_eq!(log.dropped(), 10);
    assert_eq!(log.ring().tail(None, None).len(), 10);
}

#[test]
fn a_filter_sets_the_level_of_each_target() {
    let filter = parse_filter("warn,tunneld=debug").unwrap();
    assert!(filter.would_enable("tunneld::session", &tracing::Level::DEBUG));
    assert!(!filter.would_enable("russh", &tracing::Level::INFO));
    assert!(filter.would_enable("russh", &tracing::Level::WARN));
    assert!(
        parse_filter("debg")
            .unwrap_err()
            .to_string()
            .contains("debug")
    );
}
