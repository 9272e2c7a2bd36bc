//! Looking a host up in a known_hosts file of 1000 lines (`ssh` does it for each connection, and so does tunneld).

#![expect(clippy::unwrap_used, reason = "a benchmark that fails panics")]

use divan::Bencher;
use divan::counter::ItemsCount;
use tunneld_keys::known_hosts::{HostKeyStatus, KnownHost, Name, Source, new_line};

const LINES: u16 = 1000;

fn main() {
    divan::main();
}

/// An Ed25519 public key as on the wire; its 32 bytes repeat `n`.
fn key(n: u16) -> Vec<u8> {
    let mut blob = [&[0, 0, 0, 11][..], b"ssh-ed25519", &[0, 0, 0, 32]].concat();
    blob.extend(n.to_be_bytes().repeat(16));
    blob
}

fn name(n: u16) -> Name {
    Name::new(&format!("host-{n}.example.org"), 22)
}

/// A file with one line for each host. A hashed line has a salt of its own, as ssh-keygen writes it, so that each line
/// costs one HMAC.
fn file(hashed: bool) -> String {
    let line = |n: u16| {
        let salt = hashed.then(|| n.to_be_bytes().repeat(10).try_into().unwrap());
        new_line(&name(n), &key(n), salt).unwrap()
    };
    (0..LINES).map(line).collect()
}

fn look_up(bencher: Bencher, hashed: bool) {
    let (text, last) = (file(hashed), name(LINES - 1));
    let source = Source {
        file: "known_hosts",
        text: text.as_bytes(),
    };
    // What is measured is a search that finds its line.
    let found = KnownHost::look_up(&[source], &last).judge(&key(LINES - 1));
    assert_eq!(found, HostKeyStatus::Known);
    bencher
        .counter(ItemsCount::new(LINES))
        .bench_local(|| KnownHost::look_up(divan::black_box(&[source]), divan::black_box(&last)));
}

#[divan::bench]
fn plain(bencher: Bencher) {
    look_up(bencher, false);
}

#[divan::bench]
fn hashed(bencher: Bencher) {
    look_up(bencher, true);
}
