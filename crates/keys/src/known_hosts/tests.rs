//! Verdicts by table, by property, and beside the real ssh-keygen.

use super::*;
use proptest::prelude::*;

fn blob(seed: u8) -> Vec<u8> {
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    blob.extend([seed; 32]);
    blob
}

fn b64(seed: u8) -> String {
    format!("ssh-ed25519 {}", Base64::encode_string(&blob(seed)))
}

fn rsa() -> (Vec<u8>, String) {
    let mut blob = b"\0\0\0\x07ssh-rsa\0\0\0\x03\x01\0\x01\0\0\x01\x01\0".to_vec();
    blob.extend([0xc3; 256]);
    let line = format!("ssh-rsa {}", Base64::encode_string(&blob));
    (blob, line)
}

fn judge(text: &str, host: &str, port: u16, seed: u8) -> HostKeyStatus {
    look_up(text, &Name::new(host, port)).judge(&blob(seed))
}

fn look_up(text: &str, name: &Name) -> KnownHost {
    let source = Source {
        file: "kh",
        text: text.as_bytes(),
    };
    KnownHost::look_up(&[source], name)
}

fn is_changed(verdict: &HostKeyStatus, at: usize) -> bool {
    matches!(verdict, HostKeyStatus::Changed(place) if place.line == at && place.file == "kh")
}

#[test]
fn plain_names_wildcards_and_negated_patterns_match_as_in_ssh() {
    let key = b64(1);
    for (hosts, host, port, known) in [
        ("h", "h", 22, true),
        ("h", "H", 22, true),
        ("H.Example", "h.example", 22, true),
        ("h", "g", 22, false),
        ("a,h,b", "h", 22, true),
        ("*.x", "h.x", 22, true),
        ("*.x,!h.x", "h.x", 22, false),
        ("!h.x,*.x", "h.x", 22, false),
        ("!g.x", "h.x", 22, false),
        ("[h]:2222", "h", 2222, true),
        ("[h]:2222", "h", 22, false),
        ("[h]:2222", "h", 2223, false),
        // ssh falls back to the name without the port.
        ("h", "h", 2222, true),
        ("192.0.2.?", "192.0.2.7", 22, true),
        ("[2001:db8::1]:2222", "2001:DB8::1", 2222, true),
    ] {
        let verdict = judge(&format!("{hosts} {key}\n"), host, port, 1);
        let expected = if known {
            HostKeyStatus::Known
        } else {
            HostKeyStatus::Unknown
        };
        assert_eq!(verdict, expected, "{hosts} {host} {port}");
    }
}

#[test]
fn comments_tabs_and_crlf_are_accepted_and_bad_lines_skipped() {
    let key = b64(1);
    let text = format!(
        "# h {key}\n\n  \t h\t{}\tcomment é\r\nh {key}\r\nh ssh-ed25519 AAAA\nh ssh-rsa {}\n@foo h {key}\nh\n|1|x|y {key}",
        key.replace(' ', " \t"),
        key.split(' ').nth(1).unwrap(),
    );
    assert_eq!(judge(&text, "h", 22, 1), HostKeyStatus::Known);
    assert!(
        is_changed(&judge(&text, "h", 22, 2), 4),
        "the last good line"
    );
    assert_eq!(
        judge("h ssh-ed25519 AAAA\n", "h", 22, 1),
        HostKeyStatus::Unknown
    );
}

#[test]
fn a_host_may_have_several_keys_and_types() {
    let (rsa, rsa_line) = rsa();
    let text = format!("h {}\nh {}\nh {rsa_line}\n", b64(1), b64(2));
    assert_eq!(judge(&text, "h", 22, 2), HostKeyStatus::Known);
    assert!(is_changed(&judge(&text, "h", 22, 3), 3));
    let found = look_up(&text, &Name::new("h", 22));
    assert_eq!(found.judge(&rsa), HostKeyStatus::Known);
    assert_eq!(found.key_types(), ["ssh-ed25519", "ssh-rsa"]);
    // A key of another type is a change, as ssh sees it.
    assert!(is_changed(&judge(&format!("h {rsa_line}"), "h", 22, 1), 1));
}

#[test]
fn a_revoked_line_wins_at_any_position() {
    let (good, bad) = (b64(1), b64(2));
    let text = format!("h {bad}\n@revoked * {bad}\nh {good}\n");
    assert!(matches!(judge(&text, "h", 22, 2), HostKeyStatus::Revoked(place) if place.line == 2));
    assert_eq!(judge(&text, "h", 22, 1), HostKeyStatus::Known);
    assert!(matches!(
        judge(&text, "h", 2222, 2),
        HostKeyStatus::Revoked(_)
    ));
    let elsewhere = format!("h {bad}\n@revoked g {bad}\n");
    assert_eq!(judge(&elsewhere, "h", 22, 2), HostKeyStatus::Known);
}

#[test]
fn an_authority_line_does_not_make_a_plain_key_known() {
    let text = format!("@cert-authority *.x {}\n", b64(9));
    let found = look_up(&text, &Name::new("h.x", 22));
    assert!(found.has_authority() && found.trusts_authority(&blob(9)));
    assert!(!found.trusts_authority(&blob(8)));
    assert_eq!(found.judge(&blob(9)), HostKeyStatus::Unknown);
    assert!(found.key_types().is_empty());
}

#[test]
fn an_alias_ignores_the_port() {
    let text = format!("myalias {}\n", b64(1));
    assert_eq!(
        look_up(&text, &Name::alias("MyAlias")).judge(&blob(1)),
        HostKeyStatus::Known
    );
}

#[test]
fn new_lines_are_found_by_tunneld_and_by_ssh_keygen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    for (host, port) in [("h.example", 22), ("h.example", 2222), ("::1", 2200)] {
        for salt in [None, Some([7; 20])] {
            let name = Name::new(host, port);
            let line = new_line(&name, &blob(1), salt).unwrap();
            assert_eq!(
                look_up(&line, &name).judge(&blob(1)),
                HostKeyStatus::Known,
                "{line}"
            );
            std::fs::write(&file, &line).unwrap();
            assert!(keygen_finds(&file, &name.lookup), "{line}");
        }
    }
}

fn keygen_finds(file: &std::path::Path, name: &str) -> bool {
    let out = std::process::Command::new("ssh-keygen")
        .args(["-F", name, "-f"])
        .arg(file)
        .output()
        .unwrap();
    out.status.success()
}

#[test]
fn matching_lines_are_those_that_ssh_keygen_finds() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    let key = b64(1);
    let hashed = new_line(&Name::new("h.example", 22), &blob(1), Some([3; 20])).unwrap();
    let hashed_field = hashed.split(' ').next().unwrap();
    let fields = [
        "h.example",
        "H.EXAMPLE",
        "*.example",
        "*.example,!h.example",
        "!*.example,h.example",
        "h.example,",
        ",h.example",
        "h.*,g",
        "?.example",
        "??.example",
        "[h.example]:2222",
        "[h.example]:*",
        "[*]:2222",
        "*",
        "!*",
        hashed_field,
        "|1|short|hash",
        "|2|x|y",
    ];
    for field in fields {
        std::fs::write(&file, format!("{field} {key}\n")).unwrap();
        let text = std::fs::read(&file).unwrap();
        for name in [
            Name::new("h.example", 22),
            Name::alias("[h.example]:2222"),
            Name::new("gg.example", 22),
        ] {
            let source = Source {
                file: "kh",
                text: &text,
            };
            let ours = KnownHost::look_up(&[source], &name).lists(&blob(1));
            assert_eq!(
                ours,
                keygen_finds(&file, &name.lookup),
                "{field} for {}",
                name.lookup
            );
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics_and_never_makes_a_key_known(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        let source = Source { file: "kh", text: &text };
        let found = KnownHost::look_up(&[source], &Name::new("h", 2222));
        prop_assert_ne!(found.judge(&blob(1)), HostKeyStatus::Known);
    }

    #[test]
    fn the_status_agrees_with_the_generated_lines(
        fields in proptest::collection::vec(("(@revoked |@cert-authority |)", "(h|g|\\*|!h,\\*|\\[h\\]:2222)", 0u8..3), 0..6),
        seed in 0u8..3,
    ) {
        let text: String = fields
            .iter()
            .map(|(marker, hosts, seed)| format!("{marker}{hosts} {}\n", b64(*seed)))
            .collect();
        let about = |hosts: &str| matches!(hosts, "h" | "*");
        let mine = || fields.iter().filter(|(_, hosts, _)| about(hosts));
        let expected = if mine().any(|(marker, _, key)| marker == "@revoked " && *key == seed) {
            "revoked"
        } else if mine().any(|(marker, _, key)| marker.is_empty() && *key == seed) {
            "known"
        } else if mine().any(|(marker, _, _)| marker.is_empty()) {
            "changed"
        } else {
            "unknown"
        };
        let verdict = match judge(&text, "h", 22, seed) {
            HostKeyStatus::Known => "known",
            HostKeyStatus::Unknown => "unknown",
            HostKeyStatus::Changed(_) => "changed",
            HostKeyStatus::Revoked(_) => "revoked",
        };
        prop_assert_eq!(verdict, expected, "{}", text);
    }
}
