//! Sealing and opening of SSH packets (RFC 4253 §6), for every cipher that is offered and one MAC of each mode.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails panics")]

use divan::Bencher;
use divan::counter::BytesCount;
use tunneld_ssh::testing::PacketPair;

/// Cipher and MAC; the MAC is not used with ciphers that authenticate by themselves.
const CIPHERS: &[(&str, &str)] = &[
    ("aes128-gcm@openssh.com", ""),
    ("aes256-gcm@openssh.com", ""),
    ("chacha20-poly1305@openssh.com", ""),
    ("aes128-ctr", "hmac-sha2-256-etm@openssh.com"),
    ("aes192-ctr", "hmac-sha2-256"),
    ("aes256-ctr", "hmac-sha2-512-etm@openssh.com"),
    ("aes128-cbc", "hmac-sha2-256"),
    ("aes256-cbc", "hmac-sha2-256"),
    ("3des-cbc", "hmac-sha1"),
];

/// Payload sizes in bytes: a keystroke, an Ethernet frame, a full packet of channel data.
const SIZES: [usize; 3] = [64, 1400, 32 * 1024];

fn main() {
    divan::main();
}

fn cases() -> impl Iterator<Item = String> {
    CIPHERS.iter().map(|(cipher, mac)| match *mac {
        "" => (*cipher).to_owned(),
        mac => format!("{cipher}+{mac}"),
    })
}

fn pair(case: &str) -> PacketPair {
    let (cipher, mac) = case.split_once('+').unwrap_or((case, ""));
    PacketPair::new(cipher, mac).unwrap()
}

#[divan::bench(args = cases(), consts = SIZES)]
fn seal<const SIZE: usize>(bencher: Bencher, case: &str) {
    let mut pair = pair(case);
    let payload = vec![7; SIZE];
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
        pair.seal(divan::black_box(&payload)).unwrap();
        pair.discard()
    });
}

/// Sequence numbers and counters advance with each packet, so that a packet cannot be opened twice: this seals and
/// opens.
#[divan::bench(args = cases(), consts = SIZES)]
fn seal_and_open<const SIZE: usize>(bencher: Bencher, case: &str) {
    let mut pair = pair(case);
    let payload = vec![7; SIZE];
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
        pair.seal(divan::black_box(&payload)).unwrap();
        pair.open().unwrap()
    });
}
