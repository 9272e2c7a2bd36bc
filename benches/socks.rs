//! Parsing what a client of a dynamic forward sends (SOCKS4, SOCKS4a, RFC 1928), by the parsers and by the whole
//! handshake.

#![expect(clippy::panic, reason = "a benchmark that fails panics")]

use divan::{Bencher, black_box};
use tunneld::dynamic::{ConnectRequest, Handshake, HandshakeStep, ParseOutcome, socks4, socks5};

/// A SOCKS4 request to an address.
const SOCKS4: &[u8] = b"\x04\x01\x00\x50\xc0\x00\x02\x01user\0";
/// A SOCKS4a request to a name.
const SOCKS4A: &[u8] = b"\x04\x01\x00\x50\x00\x00\x00\x01user\0database.example.org\0";
/// A SOCKS5 greeting that offers two methods.
const SOCKS5_GREETING: &[u8] = b"\x05\x02\x00\x02";
/// A SOCKS5 request to a name.
const SOCKS5: &[u8] = b"\x05\x01\x00\x03\x14database.example.org\x00\x50";
/// A SOCKS5 request to an IPv6 address.
const SOCKS5_IPV6: &[u8] = b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50";

fn main() {
    divan::main();
}

fn parse(bencher: Bencher, parser: fn(&[u8]) -> ParseOutcome<ConnectRequest>, request: &[u8]) {
    // What is measured is a request that is accepted.
    assert!(matches!(parser(request), ParseOutcome::Complete { .. }));
    bencher.bench_local(|| parser(black_box(request)));
}

#[divan::bench]
fn socks4_address(bencher: Bencher) {
    parse(bencher, socks4::parse_request, SOCKS4);
}

#[divan::bench]
fn socks4a_name(bencher: Bencher) {
    parse(bencher, socks4::parse_request, SOCKS4A);
}

#[divan::bench]
fn socks5_name(bencher: Bencher) {
    parse(bencher, socks5::parse_request, SOCKS5);
}

#[divan::bench]
fn socks5_ipv6(bencher: Bencher) {
    parse(bencher, socks5::parse_request, SOCKS5_IPV6);
}

/// One client of SOCKS5 from its greeting to its request.
#[divan::bench]
fn socks5_handshake() -> ConnectRequest {
    let mut handshake = Handshake::new();
    handshake.push(black_box(SOCKS5_GREETING));
    assert!(matches!(handshake.step(), HandshakeStep::Send(_)));
    handshake.push(black_box(SOCKS5));
    match handshake.step() {
        HandshakeStep::Connect(request) => request,
        step => panic!("{step:?}"),
    }
}
