//! Tables of both grammars, and the comparison with what `ssh -G` makes of the same text.

use proptest::prelude::*;

use super::*;

fn tcp(bind: BindAddr, port: u16) -> ListenAddr {
    ListenAddr::Tcp { bind, port }
}
fn to(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp(HostPort {
        host: host.into(),
        port,
    })
}
fn at(host: &str) -> BindAddr {
    BindAddr::Host(host.into())
}
fn unix(path: &str) -> Endpoint {
    Endpoint::Unix(path.into())
}

#[test]
fn local_forwards_are_parsed_in_both_grammars() {
    for (text, listen, target) in [
        (
            "8088 localhost:8088",
            tcp(BindAddr::Loopback, 8088),
            to("localhost", 8088),
        ),
        (
            "8088:localhost:8088",
            tcp(BindAddr::Loopback, 8088),
            to("localhost", 8088),
        ),
        (
            "127.0.0.1:9870:localhost:9870",
            tcp(at("127.0.0.1"), 9870),
            to("localhost", 9870),
        ),
        (
            "127.0.0.1:9870\tlocalhost:9870",
            tcp(at("127.0.0.1"), 9870),
            to("localhost", 9870),
        ),
        ("0 db:5432", tcp(BindAddr::Loopback, 0), to("db", 5432)),
        ("*:80 h:1", tcp(BindAddr::Any, 80), to("h", 1)),
        (":80:h:1", tcp(BindAddr::Any, 80), to("h", 1)),
        (
            "[::1]:80:[2001:db8::1]:443",
            tcp(at("::1"), 80),
            to("2001:db8::1", 443),
        ),
        (
            "[::1]:80 [fe80::1%eth0]:443",
            tcp(at("::1"), 80),
            to("fe80::1%eth0", 443),
        ),
        ("[*]:100 [h]:1", tcp(BindAddr::Any, 100), to("h", 1)),
        (
            "80:/run/db.sock",
            tcp(BindAddr::Loopback, 80),
            unix("/run/db.sock"),
        ),
        (
            "localhost:80:/run/db.sock",
            tcp(at("localhost"), 80),
            unix("/run/db.sock"),
        ),
        ("/a/b:h:1", ListenAddr::Unix("/a/b".into()), to("h", 1)),
        ("/a/b /c/d", ListenAddr::Unix("/a/b".into()), unix("/c/d")),
        ("/a/b:/c/d", ListenAddr::Unix("/a/b".into()), unix("/c/d")),
        (r"/a\:b /c", ListenAddr::Unix("/a:b".into()), unix("/c")),
        ("\"/a b\" /c", ListenAddr::Unix("/a b".into()), unix("/c")),
        (
            "~/db.sock h:1",
            ListenAddr::Unix("~/db.sock".into()),
            to("h", 1),
        ),
    ] {
        let forward = Forward::Local { listen, to: target };
        assert_eq!(parse(ForwardGrammar::Local, text), Ok(forward), "{text}");
    }
}

#[test]
fn remote_and_dynamic_forwards_are_parsed() {
    for (text, listen, to) in [
        (
            "0 localhost:22",
            tcp(BindAddr::Loopback, 0),
            Some(to("localhost", 22)),
        ),
        (
            "9000:localhost:22",
            tcp(BindAddr::Loopback, 9000),
            Some(to("localhost", 22)),
        ),
        (
            "*:9000:localhost:22",
            tcp(BindAddr::Any, 9000),
            Some(to("localhost", 22)),
        ),
        ("1080", tcp(BindAddr::Loopback, 1080), None),
        ("127.0.0.1:1080", tcp(at("127.0.0.1"), 1080), None),
        ("[::1]:1080", tcp(at("::1"), 1080), None),
        (
            "/r/s localhost:22",
            ListenAddr::Unix("/r/s".into()),
            Some(to("localhost", 22)),
        ),
        ("/r/s", ListenAddr::Unix("/r/s".into()), None),
    ] {
        assert_eq!(
            parse(ForwardGrammar::Remote, text),
            Ok(Forward::Remote { listen, to }),
            "{text}"
        );
    }
    for (text, listen) in [
        ("8157", tcp(BindAddr::Loopback, 8157)),
        ("0", tcp(BindAddr::Loopback, 0)),
        ("*:8157", tcp(BindAddr::Any, 8157)),
        ("192.0.2.1:8157", tcp(at("192.0.2.1"), 8157)),
    ] {
        assert_eq!(
            parse(ForwardGrammar::Dynamic, text),
            Ok(Forward::Dynamic { listen }),
            "{text}"
        );
    }
}

#[test]
fn dns_listeners_and_servers_are_parsed() {
    for (text, listen) in [
        ("5353", tcp(BindAddr::Loopback, 5353)),
        ("*:53", tcp(BindAddr::Any, 53)),
        ("[::1]:0", tcp(at("::1"), 0)),
    ] {
        let server = default_dns_server();
        assert_eq!(
            parse(ForwardGrammar::Dns, text),
            Ok(Forward::Dns { listen, server }),
            "{text}"
        );
    }
    for text in ["/run/dns.sock", "53 h:53", "h:53:h:53", "", "x"] {
        assert!(parse(ForwardGrammar::Dns, text).is_err(), "{text}");
    }
    for (text, host, port) in [
        ("10.0.0.2", "10.0.0.2", 53),
        ("ns.internal:5353", "ns.internal", 5353),
        ("fd00::2", "fd00::2", 53),
        ("[fd00::2]", "fd00::2", 53),
        ("[fd00::2]:54", "fd00::2", 54),
    ] {
        let expected = HostPort {
            host: host.to_owned(),
            port,
        };
        assert_eq!(parse_dns_server(text), Ok(expected), "{text}");
    }
    for text in ["", "a:0", "a:b", "a:1:2", "/run/x", "a b", "-a", "a\u{7}"] {
        assert!(parse_dns_server(text).is_err(), "{text}");
    }
}

#[test]
fn errors_name_the_part_and_the_reason() {
    for (kind, text, why) in [
        (ForwardGrammar::Local, "", "the forward is empty"),
        (ForwardGrammar::Local, "8088", "the target is missing"),
        (ForwardGrammar::Local, "a:8088", "the target is missing"),
        (
            ForwardGrammar::Local,
            "65536 h:1",
            "the listening port 65536 is outside 0 to 65535",
        ),
        (
            ForwardGrammar::Local,
            "-1 h:1",
            "the listening port `-1` is not a number",
        ),
        (
            ForwardGrammar::Local,
            "http h:1",
            "the listening port `http` is not a number",
        ),
        (
            ForwardGrammar::Local,
            "80 h:0",
            "the target's port is 0; it must be 1 to 65535",
        ),
        (
            ForwardGrammar::Local,
            "80 h:99999",
            "the target's port 99999 is outside 0 to 65535",
        ),
        (
            ForwardGrammar::Local,
            "80 h:",
            "the target's port is missing",
        ),
        (ForwardGrammar::Local, "80 :1", "the target's host is empty"),
        (
            ForwardGrammar::Local,
            "80 h",
            "the target `h` has no port: write host:port",
        ),
        (
            ForwardGrammar::Local,
            "80 h:1 x",
            "the forward has more than two parts; it is a listening side and a target",
        ),
        (
            ForwardGrammar::Local,
            "[::1:80 h:1",
            "`[` is not closed in `[::1:80`",
        ),
        (
            ForwardGrammar::Local,
            "[::1]80 h:1",
            "expected a colon after `]`, found `80`",
        ),
        (
            ForwardGrammar::Local,
            "80 $(x):1",
            "the target's host `$(x)` contains `$`",
        ),
        (
            ForwardGrammar::Local,
            "80 -x:1",
            "the target's host `-x` starts with `-`",
        ),
        (
            ForwardGrammar::Local,
            "80 a\u{1b}b:1",
            "the forward contains the control character U+001B",
        ),
        (
            ForwardGrammar::Local,
            "\"80 h:1",
            "a quotation mark is not closed",
        ),
        (
            ForwardGrammar::Dynamic,
            "80 h:1",
            "a dynamic forward has no target: the SOCKS clients choose it",
        ),
        (
            ForwardGrammar::Local,
            "::1:80 h:1",
            "the listening side is [bind:]port or a /path; an IPv6 address needs brackets",
        ),
    ] {
        assert_eq!(parse(kind, text), Err(ForwardError(why.into())), "{text}");
    }
    let long = format!("/{} h:1", "x".repeat(107));
    assert!(
        parse(ForwardGrammar::Local, &long)
            .unwrap_err()
            .to_string()
            .contains("108 bytes")
    );
}

/// The forwards that `ssh -G` prints for these, or why it refuses them.
fn openssh(kind: ForwardGrammar, texts: &[String]) -> Result<Vec<String>, String> {
    let (flag, keyword) = match kind {
        ForwardGrammar::Local => ("-L", "localforward "),
        ForwardGrammar::Remote => ("-R", "remoteforward "),
        ForwardGrammar::Dynamic => ("-D", "dynamicforward "),
        ForwardGrammar::Dns => return Err("ssh has no DNS listener".to_owned()),
    };
    let mut command = std::process::Command::new("ssh");
    command.args(["-G", "-T", "-F", "/dev/null"]);
    for text in texts {
        command.args([flag, text]);
    }
    let output = command.args(["--", "host"]).output().expect("ssh runs");
    if !output.status.success() {
        return Err(format!(
            "{texts:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix(keyword).map(str::to_owned))
        .collect())
}

fn port_text() -> impl Strategy<Value = String> {
    prop_oneof![
        (1u32..65536).prop_map(|p| p.to_string()),
        Just("65536".into()),
        Just("x".into()),
        Just(String::new())
    ]
}
fn host_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}(\\.[a-z]{1,4})?",
        Just("127.0.0.1".into()),
        Just("[::1]".into()),
        Just("[2001:db8::1]".into()),
        Just("*".into()),
        Just(String::new()),
        Just("::1".into()),
        Just("[bad".into()),
    ]
}
fn spec_text() -> impl Strategy<Value = String> {
    let path = "/[a-z]{1,6}/[a-z]{1,6}";
    prop_oneof![
        (host_text(), port_text(), host_text(), port_text())
            .prop_map(|(a, b, c, d)| format!("{a}:{b}:{c}:{d}")),
        (port_text(), host_text(), port_text()).prop_map(|(b, c, d)| format!("{b}:{c}:{d}")),
        (host_text(), port_text()).prop_map(|(a, b)| format!("{a}:{b}")),
        (port_text(), path).prop_map(|(a, b)| format!("{a}:{b}")),
        (path, host_text(), port_text()).prop_map(|(a, b, c)| format!("{a}:{b}:{c}")),
        (path, path).prop_map(|(a, b)| format!("{a}:{b}")),
        port_text(),
    ]
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,60}") {
        for kind in [ForwardGrammar::Local, ForwardGrammar::Remote, ForwardGrammar::Dynamic] {
            let _ = parse(kind, &text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// OpenSSH accepts what tunneld accepts, and parses it to the same forward.
    #[test]
    fn agrees_with_openssh(texts in proptest::collection::vec(spec_text(), 60)) {
        for kind in [ForwardGrammar::Local, ForwardGrammar::Remote, ForwardGrammar::Dynamic] {
            // OpenSSH prints equal forwards once.
            let mut accepted: Vec<(String, Forward)> = texts
                .iter()
                .filter_map(|text| Some((text.clone(), parse(kind, text).ok()?)))
                .collect();
            accepted.dedup_by(|a, b| a.1 == b.1);
            if accepted.is_empty() {
                continue;
            }
            let texts: Vec<String> = accepted.iter().map(|(text, _)| text.clone()).collect();
            let theirs = openssh(kind, &texts).map_err(TestCaseError::fail)?;
            let theirs: Vec<Forward> = theirs
                .iter()
                .map(|line| parse(kind, line.trim_end_matches(" [socks]:0")).unwrap_or_else(|e| panic!("{line}: {e}")))
                .collect();
            for (text, ours) in &accepted {
                prop_assert!(theirs.contains(ours), "{:?} {text}: {ours:?} not in {theirs:?}", kind);
            }
        }
    }
}
