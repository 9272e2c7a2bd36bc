//! The fuzz targets of the workspace folder `fuzz/`, and tests that replay and vary their corpora on a stable compiler.
//!
//! Each target takes any bytes, must not panic, and asserts what holds for every input.

mod support;
mod transport;

use crate::algorithm::Kind;
use crate::auth::UserAuth;
use crate::connection::{ChannelTarget, Connection, ConnectionConfig, PacketSink, RemoteListen};
use crate::kex::KexMethod;
use crate::signature::{self, Certificate};
use crate::wire::Reader;
use support::{now, payloads};

/// A fuzz target: takes any bytes.
pub type FuzzTarget = fn(&[u8]);

/// The fuzz targets by name. The corpus of each is in the workspace's folder `fuzz/corpus/NAME`.
pub const TARGETS: &[(&str, FuzzTarget)] = &[
    ("ident", transport::ident),
    ("kexinit", transport::kexinit),
    ("transport", transport::payloads),
    ("stream", transport::stream),
    ("exchange", key_exchange),
    ("signature", host_key),
    ("auth", auth),
    ("connection", connection),
];

/// Runs the target `name`. Does nothing if there is none.
pub fn run(name: &str, bytes: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(bytes);
    }
}

/// The first byte selects a key exchange method, the rest are the server's messages.
fn key_exchange(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    // Without the largest groups, which only make it slow.
    let names: Vec<&str> = Kind::Kex
        .known()
        .filter(|name| !name.contains("group16") && !name.contains("group18"))
        .collect();
    let Some(name) = names.get(usize::from(*which) % names.len()) else {
        return;
    };
    let mut fill = |bytes: &mut [u8]| bytes.fill(7);
    if let Ok((mut method, _)) = KexMethod::start(name, &mut fill) {
        for payload in payloads(rest) {
            if method.on_message(&payload, &mut fill).is_err() {
                break;
            }
        }
    }
}

/// A host key or certificate, a signature, and the signed data.
fn host_key(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (Ok(key), Ok(signature)) = (reader.string(), reader.string()) else {
        return;
    };
    for algorithm in Kind::HostKey.known() {
        let _ = signature::verify(algorithm, key, signature, reader.rest(), None);
    }
    if let Ok(certificate) = Certificate::parse(key, true) {
        let _ = certificate.check_host("host", 1_700_000_000);
    }
}

fn auth(bytes: &[u8]) {
    let (mut auth, _) = UserAuth::new("user");
    for (round, payload) in payloads(bytes).iter().enumerate() {
        match round % 4 {
            0 => drop(auth.none()),
            1 => drop(auth.password("secret", None)),
            2 => drop(auth.keyboard_interactive("")),
            _ => drop(auth.public_key_query("ssh-ed25519", b"key")),
        }
        if auth.handle(payload).is_err() {
            break;
        }
    }
    assert!(auth.banner().len() <= 8 * 1024);
}

/// Counts the packets that a connection sends, and throws them away.
struct CountingSink(usize);

impl PacketSink for CountingSink {
    fn send(&mut self, _payload: &[u8]) {
        self.0 += 1;
    }
    fn send_parts(&mut self, _header: &[u8], _data: &[u8]) {
        self.0 += 1;
    }
    fn last_sequence(&self) -> Option<u32> {
        u32::try_from(self.0).ok()
    }
    fn reply_unimplemented(&mut self) {
        self.0 += 1;
    }
}

fn connection(bytes: &[u8]) {
    let (mut connection, mut out) = (
        Connection::new(ConnectionConfig::default()),
        CountingSink(0),
    );
    let now = now();
    for port in 0..2 {
        let target = ChannelTarget::Tcp {
            host: b"target".to_vec(),
            port: 80,
            originator: ("127.0.0.1".into(), 1),
        };
        connection.open_channel(&target, now, &mut out);
        let address = "localhost".into();
        connection.request_forward(&RemoteListen::Tcp { address, port }, &mut out);
    }
    for payload in payloads(bytes) {
        let sent = out.0;
        let handled = connection.handle_packet(now, payload, &mut out);
        assert!(out.0 <= sent + 4, "one message causes few packets");
        while connection.poll_event().is_some() {}
        if handled.is_err() {
            break;
        }
    }
    assert!(connection.channel_count() <= ConnectionConfig::default().max_channels);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_corpus_passes() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let files: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(!files.is_empty(), "{name} has a corpus");
            for file in files {
                target(&std::fs::read(file.unwrap().path()).unwrap());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn varied_corpora_pass(
            which in 0..TARGETS.len(),
            pick: prop::sample::Index,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut: prop::sample::Index,
        ) {
            let (name, target) = TARGETS[which];
            let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
            let files: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().collect();
            let mut bytes = std::fs::read(pick.get(&files).as_ref().unwrap().path()).unwrap();
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            target(&bytes);
            if !bytes.is_empty() {
                target(&bytes[..cut.index(bytes.len())]);
            }
        }
    }
}
