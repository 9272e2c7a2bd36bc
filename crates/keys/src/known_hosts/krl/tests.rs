//! Revocation lists as the real ssh-keygen writes them, and damaged lists.

use std::path::Path;
use std::process::Command;

use base64ct::{Base64, Encoding as _};
use proptest::prelude::*;

use super::{BadKrl, revokes};
use crate::known_hosts::presented::{CertifiedBy, Presented};

fn keygen(dir: &Path, args: &[&str]) {
    let done = Command::new("ssh-keygen")
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ssh-keygen {args:?}: {why}");
}

fn blob(dir: &Path, name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    Base64::decode_vec(text.split_whitespace().nth(1).unwrap()).unwrap()
}

/// The list that ssh-keygen makes of `spec`.
fn krl(dir: &Path, spec: &str) -> Vec<u8> {
    std::fs::write(dir.join("spec"), spec).unwrap();
    keygen(dir, &["-q", "-k", "-f", "krl", "-s", "ca.pub", "spec"]);
    std::fs::read(dir.join("krl")).unwrap()
}

/// A folder with the authority `ca` and the keys `host` and `other`.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ca", "host", "other"] {
        keygen(
            dir.path(),
            &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name],
        );
    }
    dir
}

#[test]
fn serial_numbers_revoke_however_they_are_written() {
    let dir = folder();
    let (authority, plain, other) = (
        blob(dir.path(), "ca.pub"),
        blob(dir.path(), "host.pub"),
        blob(dir.path(), "other.pub"),
    );
    let scattered: Vec<u64> = (1..2000_u64).map(|n| n * n % 4001 + 1).collect();
    let top = u64::MAX;
    for (name, listed) in [
        ("one", vec![7]),
        (
            "a few far apart",
            vec![3, 1 << 33, (1 << 33) + 100_000, top],
        ),
        ("a range", (100..=300).collect()),
        ("a bitmap", scattered),
        ("the last ones", (top - 200..=top).step_by(3).collect()),
    ] {
        let spec: String = listed.iter().map(|n| format!("serial: {n}\n")).collect();
        let krl = krl(dir.path(), &spec);
        let near = listed
            .iter()
            .flat_map(|n| [n.saturating_sub(1), *n, n.saturating_add(1)]);
        for serial in near.chain([0, 1, 2, 99, 301, 5000]) {
            let certified = |authority| CertifiedBy {
                authority,
                serial,
                key_id: b"x",
            };
            let by = |certified| {
                revokes(
                    &krl,
                    &Presented {
                        plain: &plain,
                        certified,
                    },
                )
                .unwrap()
            };
            assert_eq!(
                by(Some(certified(&authority))),
                listed.contains(&serial),
                "{name}: {serial}"
            );
            assert!(!by(Some(certified(&other))), "{name}: another authority's");
            assert!(!by(None), "{name}: a plain key");
        }
    }
}

#[test]
fn truncated_lists_are_errors_without_a_panic() {
    let dir = folder();
    let (authority, plain) = (blob(dir.path(), "ca.pub"), blob(dir.path(), "host.pub"));
    let other = std::fs::read_to_string(dir.path().join("other.pub")).unwrap();
    let spec = format!(
        "serial: 5\nserial: 100-200\nid: someone\nkey: {other}sha256: {other}sha1: {other}"
    );
    let krl = krl(dir.path(), &spec);
    let shown = Presented {
        plain: &plain,
        certified: Some(CertifiedBy {
            authority: &authority,
            serial: 9,
            key_id: b"id",
        }),
    };
    assert_eq!(revokes(&krl, &shown), Ok(false));
    let sections = sections(&krl);
    for cut in 0..krl.len() {
        let said = revokes(&krl[..cut], &shown);
        assert_eq!(said.is_ok(), sections.contains(&cut), "cut to {cut}");
    }
    for at in 0..krl.len() {
        for bit in 0..8 {
            let mut changed = krl.clone();
            changed[at] ^= 1 << bit;
            let _no_panic = revokes(&changed, &shown);
        }
    }
    let with = |more: &[u8]| revokes(&[&krl, more].concat(), &shown);
    assert_eq!(with(b"\x04\0\0\0\0"), Err(BadKrl::Unknown(4)));
    assert_eq!(with(b"\x06\0\0\0\0"), Err(BadKrl::Unknown(6)));
    let extension =
        |critical: u8| [b"\xff\0\0\0\x0a\0\0\0\x01x", &[critical][..], b"\0\0\0\0"].concat();
    assert_eq!(with(&extension(0)), Ok(false));
    assert_eq!(with(&extension(1)), Err(BadKrl::Unknown(255)));
    let mut newer = krl.clone();
    newer[11] = 2;
    assert_eq!(revokes(&newer, &shown), Err(BadKrl::Version(2)));
}

/// Where a list may end: behind its head, and behind each section.
fn sections(krl: &[u8]) -> Vec<usize> {
    let u32_at = |at: usize| u32::from_be_bytes(krl[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 8 + 4 + 24;
    for _ in 0..2 {
        at += 4 + u32_at(at);
    }
    let mut ends = vec![at];
    while at < krl.len() {
        at += 5 + u32_at(at + 1);
        ends.push(at);
    }
    ends
}

#[test]
fn numbers_that_cannot_be_are_errors() {
    let shown = Presented {
        plain: b"key",
        certified: Some(CertifiedBy {
            authority: b"ca",
            serial: 3,
            key_id: b"id",
        }),
    };
    let string = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let list = |kind: u8, part: &[u8]| {
        let part = [&[kind], &string(part)[..]].concat();
        let section = [string(b"ca"), string(b""), part].concat();
        let mut krl = b"SSHKRL\n\0\0\0\0\x01".to_vec();
        krl.extend([0; 32]);
        krl.push(1);
        krl.extend(string(&section));
        krl
    };
    let n = u64::to_be_bytes;
    for (kind, part, said) in [
        (0x20, n(3).to_vec(), Ok(true)),
        (0x20, n(0).to_vec(), Err(BadKrl::Damaged)),
        (0x20, vec![0; 7], Err(BadKrl::Damaged)),
        (0x21, [n(3), n(3)].concat(), Ok(true)),
        (0x21, [n(4), n(3)].concat(), Err(BadKrl::Damaged)),
        (0x21, [n(0), n(3)].concat(), Err(BadKrl::Damaged)),
        (0x21, [n(1), n(3), n(4)].concat(), Err(BadKrl::Damaged)),
        (0x22, [n(2).to_vec(), string(&[2])].concat(), Ok(true)),
        (0x22, [n(2).to_vec(), string(&[0, 2])].concat(), Ok(true)),
        (0x22, [n(2).to_vec(), string(&[1])].concat(), Ok(false)),
        (0x22, [n(2).to_vec(), string(&[])].concat(), Ok(false)),
        (
            0x22,
            [n(0).to_vec(), string(&[9])].concat(),
            Err(BadKrl::Damaged),
        ),
        (
            0x22,
            [n(u64::MAX).to_vec(), string(&[2])].concat(),
            Err(BadKrl::Damaged),
        ),
        (0x23, string(b"id"), Ok(true)),
        (0x23, string(b"i"), Ok(false)),
        (0x24, string(b"id"), Err(BadKrl::Unknown(0x24))),
    ] {
        assert_eq!(
            revokes(&list(kind, &part), &shown),
            said,
            "{kind:x} {part:?}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_behind_a_head_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut krl = b"SSHKRL\n\0\0\0\0\x01".to_vec();
        krl.extend([0; 32]);
        krl.extend(&bytes);
        let shown = Presented { plain: b"key", certified: None };
        let _no_panic = revokes(&krl, &shown);
    }
}
