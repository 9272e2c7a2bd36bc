//! What the fuzzers call, and the tests that replay their corpora: each target takes any bytes, must
//! not panic, and checks what must hold for all input.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::algorithm::Kind;
use crate::auth::Auth;
use crate::config::Config;
use crate::connection::{Connection, Listen, Outbox, Settings, Target};
use crate::kex::Method;
use crate::signature::{self, Certificate};
use crate::transport::{self, Event, Transport};
use crate::wire::Reader;

/// One target: takes any bytes.
pub type FuzzTarget = fn(&[u8]);

/// The targets by name; the corpus of each is in the folder `fuzz/corpus/NAME`.
pub const TARGETS: &[(&str, FuzzTarget)] = &[
    ("ident", transport::fuzz::ident),
    ("kexinit", transport::fuzz::kexinit),
    ("transport", transport::fuzz::payloads),
    ("stream", stream),
    ("exchange", exchange),
    ("signature", host_key),
    ("auth", auth),
    ("connection", connection),
];

/// Runs the target of this name; nothing for a name that is none.
pub fn run(name: &str, bytes: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(bytes);
    }
}

pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(crate) fn client() -> Transport {
    let config = Config {
        ciphers: Kind::Cipher.known().collect(),
        ..Config::default()
    };
    let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(7));
    Transport::new(Arc::new(config), now(), entropy)
}

/// The payloads that the bytes hold, each behind a length of two bytes.
pub(crate) fn payloads(bytes: &[u8]) -> Vec<Bytes> {
    let mut reader = Reader::new(bytes);
    let mut payloads = Vec::new();
    while let Ok(length) = reader.array() {
        let length = usize::from(u16::from_be_bytes(length)).min(reader.rest().len());
        match reader.bytes(length) {
            Ok([]) | Err(_) => {}
            Ok(payload) => payloads.push(Bytes::copy_from_slice(payload)),
        }
    }
    payloads
}

/// A server's first bytes, whole and in pieces: the events must be the same.
fn stream(bytes: &[u8]) {
    let run = |chunk: usize| {
        let (mut client, now) = (client(), now());
        let mut told = Vec::new();
        for piece in bytes.chunks(chunk) {
            client.read_buffer().extend_from_slice(piece);
            loop {
                match client.poll(now) {
                    Ok(None) => break,
                    Ok(Some(Event::HostKey(_))) => client.accept_host_key(now),
                    Ok(Some(event)) => told.push(format!("{event:?}")),
                    Err(error) => {
                        told.push(format!("{error:?}"));
                        break;
                    }
                }
            }
            assert!(client.output().len() < 64 * 1024);
        }
        told
    };
    let whole = run(bytes.len().max(1));
    let pieces = run(7);
    // A peer's error may be seen before all of its line has come.
    assert_eq!(whole.is_empty(), pieces.is_empty());
}

/// The first byte picks a method, the rest are its messages.
fn exchange(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    // The large groups would only make it slow.
    let names: Vec<&str> = Kind::Kex
        .known()
        .filter(|name| !name.contains("group16") && !name.contains("group18"))
        .collect();
    let Some(name) = names.get(usize::from(*which) % names.len()) else {
        return;
    };
    let mut fill = |bytes: &mut [u8]| bytes.fill(7);
    if let Ok((mut method, _)) = Method::start(name, &mut fill) {
        for payload in payloads(rest) {
            if method.on_message(&payload, &mut fill).is_err() {
                break;
            }
        }
    }
}

/// A host key or certificate, a signature, and what was signed.
fn host_key(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (Ok(key), Ok(signature)) = (reader.string(), reader.string()) else {
        return;
    };
    for algorithm in Kind::HostKey.known() {
        let _ = signature::verify(algorithm, key, signature, reader.rest());
    }
    if let Ok(certificate) = Certificate::read(key, true) {
        let _ = certificate.check_host("host", 1_700_000_000);
    }
}

fn auth(bytes: &[u8]) {
    let (mut auth, _) = Auth::new("user");
    for (round, payload) in payloads(bytes).iter().enumerate() {
        match round % 4 {
            0 => drop(auth.none()),
            1 => drop(auth.password("secret", None)),
            2 => drop(auth.keyboard_interactive("")),
            _ => drop(auth.query("ssh-ed25519", b"key")),
        }
        if auth.handle(payload).is_err() {
            break;
        }
    }
    assert!(auth.banner().len() <= 8 * 1024);
}

struct Sink(usize);

impl Outbox for Sink {
    fn send(&mut self, _payload: &[u8]) {
        self.0 += 1;
    }
    fn send_data(&mut self, _header: &[u8], _data: &[u8]) {
        self.0 += 1;
    }
    fn sent(&self) -> Option<u32> {
        u32::try_from(self.0).ok()
    }
    fn unimplemented(&mut self) {
        self.0 += 1;
    }
}

fn connection(bytes: &[u8]) {
    let (mut connection, mut out) = (Connection::new(Settings::default()), Sink(0));
    let now = now();
    for port in 0..2 {
        let target = Target::Tcp {
            host: b"target".to_vec(),
            port: 80,
            originator: ("127.0.0.1".into(), 1),
        };
        connection.open(&target, now, &mut out);
        let address = "localhost".into();
        connection.request_forward(&Listen::Tcp { address, port }, &mut out);
    }
    for payload in payloads(bytes) {
        let sent = out.0;
        let handled = connection.handle(now, payload, &mut out);
        assert!(out.0 <= sent + 4, "one message makes few");
        while connection.poll_event().is_some() {}
        if handled.is_err() {
            break;
        }
    }
    assert!(connection.channels() <= Settings::default().channels);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_corpora_are_replayed() {
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
        fn changed_corpora_hold_too(
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
