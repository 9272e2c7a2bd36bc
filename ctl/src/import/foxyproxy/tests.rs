use super::*;
use serde_json::json;

fn only(text: &str) -> crate::import::ImportedTunnel {
    let mut import = read(text).unwrap();
    assert_eq!(import.tunnels.len(), 1, "{import:?}");
    import.tunnels.remove(0)
}

#[test]
fn the_emr_export_of_version_4_comes_over_whole() {
    let tunnel = only(include_str!("emr.xml"));
    assert_eq!(tunnel.name, "emr-socks-proxy");
    assert_eq!(tunnel.keys["dynamic_forward"], 8157);
    assert_eq!(
        tunnel.keys["proxy_for"],
        json!([
            "*ec2*.amazonaws.com",
            "*ec2*.compute*",
            "10.0.0.0/8",
            "*10*.amazonaws.com",
            "*10*.compute*",
            "*.compute.internal",
            "*.ec2.internal"
        ])
    );
    assert!(
        tunnel
            .notes
            .iter()
            .any(|note| note.contains("became the network 10.0.0.0/8"))
    );
    assert!(
        !tunnel
            .notes
            .iter()
            .any(|note| note.contains("not carried over")),
        "{:?}",
        tunnel.notes
    );
}

#[test]
fn versions_6_and_7_have_patterns_for_hosts() {
    let text = json!({
        "k20d": {"type": 3, "title": "emr", "address": "localhost", "port": 8157, "username": "me", "password": "secret",
            "whitePatterns": [
                {"pattern": "*.compute.internal", "type": 1, "active": true, "protocols": 1},
                {"pattern": "10.*", "type": 1, "active": true, "protocols": 2, "importedPattern": "http://10.*"},
                {"pattern": "off.example", "type": 1, "active": false},
                {"pattern": "(^|\\.)corp\\.example$", "type": 2, "active": true},
                {"pattern": "^(?:a|b)", "type": 2, "active": true}],
            "blackPatterns": [{"pattern": "bastion.compute.internal", "type": 1}]},
        "d": {"type": 5, "title": "Default", "whitePatterns": [{"pattern": "*", "type": 1}]},
        "h": {"type": 1, "title": "web", "address": "10.1.1.1", "port": 3128, "whitePatterns": []},
        "mode": "patterns", "logging": {"active": true}
    });
    let import = read(&text.to_string()).unwrap();
    let tunnel = &import.tunnels[0];
    assert_eq!(
        tunnel.keys["proxy_for"],
        json!([
            "compute.internal",
            "*.compute.internal",
            "10.0.0.0/8",
            "corp.example",
            "*.corp.example",
            "!bastion.compute.internal"
        ])
    );
    let notes = tunnel.notes.join("\n");
    assert!(notes.contains("not carried over: ^(?:a|b)"), "{notes}");
    assert!(notes.contains("password_command"), "{notes}");
    assert!(notes.contains("10.* was for http alone"), "{notes}");
    assert!(!format!("{import:?}").contains("secret"));
    assert_eq!(
        import.notes,
        ["not carried over: the proxy web: it is not a SOCKS proxy"]
    );
}

#[test]
fn version_8_has_a_list_of_proxies_and_patterns_for_urls() {
    let text = json!({"mode": "pattern", "data": [
        {"active": true, "title": "emr", "type": "socks5", "hostname": "127.0.0.1", "port": "8157",
            "include": [
                {"type": "wildcard", "pattern": "*://*.compute.internal/", "active": true},
                {"type": "wildcard", "pattern": "*://host.example/admin/*", "active": true},
                {"type": "regex", "pattern": "^https?://(.*\\.)?corp\\.example/", "active": true}],
            "exclude": [{"type": "wildcard", "pattern": "*://bastion.compute.internal/*", "active": true}]},
        {"title": "far", "type": "socks5", "hostname": "proxy.example", "port": "1080"}
    ]});
    let import = read(&text.to_string()).unwrap();
    assert_eq!(
        import.tunnels[0].keys["proxy_for"],
        json!([
            "*.compute.internal",
            "compute.internal",
            "corp.example",
            "*.corp.example",
            "!bastion.compute.internal"
        ])
    );
    assert!(
        import.tunnels[0]
            .notes
            .iter()
            .any(|note| note.contains("not carried over: *://host.example/admin/*"))
    );
    assert!(import.notes[0].contains("far: its proxy is on another machine"));
}

#[test]
fn files_of_something_else_are_one_error() {
    let deep = "[".repeat(100_000);
    let many = json!({"a": {"type": 3, "address": "localhost", "port": 1,
        "whitePatterns": vec![json!({"pattern": "a.example", "type": 1}); 5001]}})
    .to_string();
    for (text, part) in [
        ("", "neither JSON nor XML"),
        ("{", "neither JSON nor XML"),
        (&deep, "neither JSON nor XML"),
        ("[]", "no proxy"),
        ("{}", "no proxy"),
        ("{\"a\": {\"type\": 3}}", "no proxy"),
        ("<html/>", "no proxy"),
        ("<a>&lol9;</a>", "entity"),
        (&many, "at most 5000"),
    ] {
        let exit = read(text).unwrap_err();
        assert_eq!(exit.code, 2);
        assert!(exit.hint.is_some());
        assert!(exit.message.as_deref().unwrap().contains(part), "{exit:?}");
    }
}

#[test]
fn proxies_without_a_usable_port_are_noted() {
    for port in [json!("x"), json!(0), json!(70000), json!(null)] {
        let text = json!({"a": {"type": 3, "title": "t", "address": "localhost", "port": port, "whitePatterns": []}});
        let import = read(&text.to_string()).unwrap();
        assert!(import.tunnels.is_empty());
        assert!(import.notes[0].contains("1 to 65535"));
    }
}
