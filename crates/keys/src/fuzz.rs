//! The fuzz targets of the workspace folder `fuzz/` for this crate, and tests that replay their corpora on a stable
//! compiler.
//!
//! Each target takes any bytes, must not panic, and asserts what holds for every input.

use ssh_key::Kdf;

use crate::known_hosts::presented::{CertifiedBy, Presented};
use crate::known_hosts::revoked::revokes;
use crate::known_hosts::{HostKeyStatus, KnownHost, Name, Source};
use crate::{private_key, putty};

/// A fuzz target: takes any bytes.
pub type FuzzTarget = fn(&[u8]);

/// The fuzz targets by name. The corpus of each is in the workspace's folder `fuzz/corpus/NAME`.
pub const TARGETS: &[(&str, FuzzTarget)] = &[
    ("private_key", private_key_file),
    ("known_hosts", known_hosts_file),
    ("revoked", revoked_keys_file),
];

/// Runs the target `name`. Does nothing if there is none.
pub fn run(name: &str, bytes: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(bytes);
    }
}

/// The passphrase of every encrypted key of the corpus.
const PASSPHRASE: &str = "secret";

/// Largest number that a file may contain for its key derivation to run. The crate's own limits allow seconds of work,
/// which is too slow for thousands of inputs.
const LARGEST_COST: u64 = 4096;

/// The text of a key file. A key that `decrypt` returns has the public half that `inspect` reads without the passphrase.
fn private_key_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(info) = private_key::inspect(text) else {
        return;
    };
    if let Some(key) = &info.key {
        assert!(!key.is_encrypted());
        assert_eq!(private_key::public_bytes(key), info.public);
        let _ = private_key::agent_encoding(key);
    } else if is_cheap(text)
        && let Ok(key) = private_key::decrypt(text, PASSPHRASE)
    {
        assert!(!key.is_encrypted());
        if let Some(public) = info.public {
            assert_eq!(private_key::public_bytes(&key), Some(public));
        }
    }
}

/// Whether the key derivation of an encrypted file is fast. `false` for formats whose cost is inside the base64: they
/// are decrypted only in the crate's own tests.
fn is_cheap(text: &str) -> bool {
    if let Ok(key) = ssh_key::PrivateKey::from_openssh(text) {
        return match key.kdf() {
            Kdf::Bcrypt { rounds, .. } => *rounds <= 2,
            _ => true,
        };
    }
    if putty::is_ppk(text) {
        let numbers = text.lines().filter(|line| line.starts_with("Argon2-"));
        return numbers
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .all(|cost| cost <= LARGEST_COST);
    }
    // The traditional PEM encryption hashes once.
    text.contains("DEK-Info:")
}

/// A host name up to the first line feed, then the content of a known_hosts file.
fn known_hosts_file(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (host, text) = bytes.split_at(end);
    let host = String::from_utf8_lossy(host);
    let source = Source {
        file: "known_hosts",
        text,
    };
    for name in [
        Name::new(&host, 22),
        Name::new(&host, 2222),
        Name::alias(&host),
    ] {
        let found = KnownHost::look_up(&[source], &name);
        // A key that the file does not contain is never known.
        let foreign = found.judge(b"\0\0\0\x0bssh-ed25519 of another host");
        assert!(!matches!(
            foreign,
            HostKeyStatus::Known | HostKeyStatus::Revoked(_)
        ));
        // Reading a file twice gives the same answer as reading it once.
        let again = KnownHost::look_up(&[source, source], &name);
        assert_eq!(found.key_types(), again.key_types());
        assert_eq!(found.has_revoked(), again.has_revoked());
        assert_eq!(found.has_authority(), again.has_authority());
    }
}

/// The length of a public key in one byte, the key, then the content of a RevokedHostKeys file.
fn revoked_keys_file(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else {
        return;
    };
    let Some((key, file)) = rest.split_at_checked(usize::from(*length)) else {
        return;
    };
    let plain = Presented {
        plain: key,
        certified: None,
    };
    let certificate = Presented {
        plain: key,
        certified: Some(CertifiedBy {
            authority: b"\0\0\0\x0bssh-ed25519 of an authority",
            serial: 7,
            key_id: b"host",
        }),
    };
    match (revokes(file, &plain), revokes(file, &certificate)) {
        // A revoked key is revoked with every certificate.
        (Ok(key), Ok(certificate)) => assert!(certificate || !key),
        // Whether a list can be used does not depend on the key.
        (key, certificate) => assert_eq!(key.is_err(), certificate.is_err()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let files = std::fs::read_dir(corpus.join(name)).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn every_corpus_passes() {
        for (name, target) in TARGETS {
            let inputs = corpus(name);
            assert!(!inputs.is_empty(), "{name} has a corpus");
            for input in inputs {
                target(&input);
            }
        }
    }

    /// The corpus reaches what lies behind the first checks.
    #[test]
    fn the_corpus_has_keys_that_are_decrypted() {
        let texts = corpus("private_key").into_iter();
        let decrypted = texts
            .filter_map(|input| String::from_utf8(input).ok())
            .filter(|text| private_key::inspect(text).is_ok_and(|info| info.key.is_none()))
            .filter(|text| is_cheap(text) && private_key::decrypt(text, PASSPHRASE).is_ok());
        assert!(decrypted.count() >= 3, "OpenSSH, PEM and PuTTY");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn varied_corpora_pass(
            which in 0..TARGETS.len(),
            pick: prop::sample::Index,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut: prop::sample::Index,
        ) {
            let (name, target) = TARGETS[which];
            let mut bytes = pick.get(&corpus(name)).clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            target(&bytes);
            target(&bytes[..cut.index(bytes.len())]);
        }
    }
}
