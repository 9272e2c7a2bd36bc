use std::net::IpAddr;

use proptest::prelude::*;

use super::super::request::Host;
use super::*;

/// The result of a whole handshake: what was sent to the client, the last step, and the payload after the request.
#[derive(Debug, PartialEq)]
struct Outcome {
    sent: Vec<u8>,
    last_step: HandshakeStep,
    payload: Vec<u8>,
}

/// Feeds `pieces` to a handshake. A piece that exceeds the capacity is split, as a bounded read would split it.
fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut handshake = Handshake::new();
    let mut sent = Vec::new();
    let mut last_step = HandshakeStep::ReadMore;
    let mut unread = Vec::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            if last_step != HandshakeStep::ReadMore {
                unread.extend_from_slice(piece);
                break;
            }
            let (now, rest) = piece.split_at(handshake.capacity().min(piece.len()));
            assert!(
                !now.is_empty(),
                "the handshake wants more and has capacity for it"
            );
            handshake.push(now);
            piece = rest;
            loop {
                last_step = handshake.step();
                match &last_step {
                    HandshakeStep::Send(bytes) => sent.extend_from_slice(bytes),
                    _ => break,
                }
            }
        }
    }
    let mut payload = Vec::new();
    if matches!(last_step, HandshakeStep::Connect(_)) {
        payload = handshake.into_payload();
        payload.extend(unread);
    }
    Outcome {
        sent,
        last_step,
        payload,
    }
}

fn socks5(command: u8, kind: u8, address: &[u8], port: u16) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 5, command, 0, kind];
    bytes.extend_from_slice(address);
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes
}

fn socks5_by_name(name: &[u8]) -> Vec<u8> {
    let mut address = vec![u8::try_from(name.len()).unwrap()];
    address.extend_from_slice(name);
    socks5(1, 3, &address, 80)
}

fn socks4(command: u8, port: u16, ip: [u8; 4], texts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![4, command];
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&ip);
    for text in texts {
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
    bytes
}

fn destination(outcome: &Outcome) -> (&Host, u16) {
    match &outcome.last_step {
        HandshakeStep::Connect(request) => (&request.host, request.port),
        other => panic!("expected a connect request: {other:?}"),
    }
}

#[test]
fn a_letter_starts_an_http_request() {
    let request = b"GET http://yarn/ HTTP/1.1\r\n";
    let outcome = run([request.as_slice()]);
    assert_eq!(
        (outcome.last_step, outcome.sent),
        (HandshakeStep::Http, vec![])
    );
}

#[test]
fn an_unknown_protocol_is_closed_without_a_reply() {
    for first in [
        b"\x16\x03\x01".as_slice(),
        b" GET / HTTP/1.1\r\n",
        &[0],
        &[0xff],
    ] {
        let outcome = run([first]);
        assert_eq!(
            (outcome.last_step, outcome.sent),
            (HandshakeStep::Close, vec![])
        );
    }
}

#[test]
fn socks5_accepts_ipv4_and_ipv6_addresses() {
    let outcome = run([socks5(1, 1, &[10, 0, 0, 7], 443).as_slice()]);
    assert_eq!(outcome.sent, [5, 0]);
    assert_eq!(
        destination(&outcome),
        (&Host::Ip("10.0.0.7".parse::<IpAddr>().unwrap()), 443)
    );
    let mut v6 = [0; 16];
    v6[15] = 1;
    let outcome = run([socks5(1, 4, &v6, 22).as_slice()]);
    assert_eq!(
        destination(&outcome),
        (&Host::Ip("::1".parse().unwrap()), 22)
    );
}

#[test]
fn host_names_are_passed_on_unchanged() {
    for name in [
        b"db.internal".as_slice(),
        b"trailing.dot.",
        b"[::1]",
        b"::1",
        b"127.0.0.1",
        b"_srv._tcp.x",
        b"\xff\xfe",
        "b\u{fc}cher".as_bytes(),
        &[b'n'; 255],
    ] {
        assert_eq!(
            destination(&run([socks5_by_name(name).as_slice()])).0,
            &Host::Name(name.to_vec())
        );
        let bytes = socks4(1, 80, [0, 0, 0, 9], &[b"me", name]);
        assert_eq!(
            destination(&run([bytes.as_slice()])).0,
            &Host::Name(name.to_vec())
        );
    }
}

#[test]
fn an_invalid_request_is_refused_with_the_matching_code() {
    for (bytes, code) in [
        (socks5_by_name(b""), 1),
        (socks5_by_name(b"a\0b"), 1),
        (socks5_by_name(b"a\nb"), 1),
        (socks5_by_name(b"a\x1b[0m"), 1),
        (socks5_by_name(b"a\x7f"), 1),
        (socks5(1, 1, &[1, 2, 3, 4], 0), 1),
        (socks5(2, 1, &[1, 2, 3, 4], 80), 7),
        (socks5(3, 1, &[0, 0, 0, 0], 0), 7),
        (socks5(9, 1, &[1, 2, 3, 4], 80), 7),
        (socks5(1, 9, &[1, 2, 3, 4], 80), 8),
    ] {
        let outcome = run([bytes.as_slice()]);
        let reply = vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(outcome.last_step, HandshakeStep::Refuse(reply), "{bytes:?}");
    }
    for bytes in [
        socks4(2, 80, [1, 2, 3, 4], &[b""]),
        socks4(1, 0, [1, 2, 3, 4], &[b""]),
        socks4(1, 80, [0, 0, 0, 1], &[b"", b""]),
        socks4(1, 80, [0, 0, 0, 1], &[b"", b"a\nb"]),
    ] {
        let outcome = run([bytes.as_slice()]);
        assert_eq!(
            outcome.last_step,
            HandshakeStep::Refuse(vec![0, 91, 0, 0, 0, 0, 0, 0]),
            "{bytes:?}"
        );
    }
}

#[test]
fn no_authentication_is_selected_only_if_the_client_offers_it() {
    assert_eq!(
        run([&[5u8, 0][..]]).last_step,
        HandshakeStep::Refuse(vec![5, 0xff])
    );
    assert_eq!(
        run([&[5u8, 1, 1][..]]).last_step,
        HandshakeStep::Refuse(vec![5, 0xff])
    );
    let mut all = vec![5, 255];
    all.extend((0..255).rev());
    assert_eq!(run([all.as_slice()]).sent, [5, 0]);
}

#[test]
fn a_version_change_after_the_greeting_closes_the_connection() {
    let outcome = run([&[5u8, 1, 0, 4, 1, 0, 1][..]]);
    assert_eq!(
        (outcome.last_step, outcome.sent),
        (HandshakeStep::Close, vec![5, 0])
    );
}

#[test]
fn an_unterminated_socks4_text_is_closed_after_255_bytes() {
    let mut user = vec![4, 1, 0, 80, 1, 2, 3, 4];
    user.extend([b'u'; 255]);
    assert_eq!(run([user.as_slice()]).last_step, HandshakeStep::ReadMore);
    user.push(b'u');
    assert_eq!(run([user.as_slice()]).last_step, HandshakeStep::Close);
    let mut host = socks4(1, 80, [0, 0, 0, 1], &[&[b'u'; 255]]);
    host.extend(vec![b'h'; 1_000_000]);
    assert_eq!(run([host.as_slice()]).last_step, HandshakeStep::Close);
}

#[test]
fn payload_after_the_request_is_returned_once_and_in_order() {
    let mut bytes = socks5_by_name(b"host");
    bytes.extend((0..3000u32).map(|i| i as u8));
    let outcome = run(bytes.chunks(7));
    assert_eq!(
        outcome.payload,
        (0..3000u32).map(|i| i as u8).collect::<Vec<_>>()
    );
}

/// The steps of a handshake that requires a login, which is right if `accepted`.
fn steps_with_login(bytes: &[u8], accepted: bool) -> Vec<HandshakeStep> {
    let mut handshake = Handshake::with_login();
    let mut steps = Vec::new();
    for byte in bytes {
        handshake.push(&[*byte]);
        let mut step = handshake.step();
        loop {
            let next = match &step {
                HandshakeStep::ReadMore => break,
                HandshakeStep::CheckLogin(_) => handshake.login_checked(accepted),
                HandshakeStep::Send(_) => handshake.step(),
                _ => {
                    steps.push(step);
                    return steps;
                }
            };
            steps.push(step);
            step = next;
        }
    }
    steps
}

#[test]
fn a_login_is_checked_before_the_request_is_read() {
    let login = ClientLogin::new(b"alice", b"");
    let bytes = b"\x05\x02\x00\x02\x01\x05alice\x00\x05\x01\x00\x03\x02db\x15\x38";
    let begin = [
        HandshakeStep::Send(vec![5, 2]),
        HandshakeStep::CheckLogin(login),
    ];
    let steps = steps_with_login(bytes, false);
    assert_eq!(steps[..2], begin);
    assert_eq!(steps[2..], [HandshakeStep::Refuse(vec![1, 1])]);
    let steps = steps_with_login(bytes, true);
    assert_eq!(steps[..2], begin);
    assert_eq!(steps[2], HandshakeStep::Send(vec![1, 0]));
    assert!(
        matches!(steps[3..], [HandshakeStep::Connect(_)]),
        "{steps:?}"
    );
}

#[test]
fn a_client_without_a_login_is_refused_in_its_protocol() {
    let missing = |reply: &[u8]| [HandshakeStep::LoginMissing(reply.to_vec())];
    for greeting in [&[5, 1, 0][..], &[5, 0], &[5, 2, 0, 1]] {
        assert_eq!(steps_with_login(greeting, true), missing(&[5, 255]));
    }
    let socks4 = socks4(1, 80, [127, 0, 0, 1], &[b"alice"]);
    assert_eq!(
        steps_with_login(&socks4, true),
        missing(&[0, 91, 0, 0, 0, 0, 0, 0])
    );
    // The version of the login is 1.
    let steps = steps_with_login(&[5, 1, 2, 5, 1, b'a', 1, b'a'], true);
    assert_eq!(steps[1..], [HandshakeStep::Close]);
}

fn client_bytes() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::collection::vec(any::<u8>(), 0..=255);
    let valid = (
        name,
        any::<u16>(),
        prop::collection::vec(any::<u8>(), 0..700),
        any::<bool>(),
    )
        .prop_map(|(name, port, payload, is_socks5)| {
            let mut bytes = if is_socks5 {
                let mut address = vec![name.len() as u8];
                address.extend(&name);
                socks5(1, 3, &address, port)
            } else {
                socks4(1, port, [0, 0, 0, 1], &[b"u", &name])
            };
            bytes.extend(payload);
            bytes
        });
    let noise = (4..=5u8, prop::collection::vec(any::<u8>(), 0..900)).prop_map(|(v, mut b)| {
        b.insert(0, v);
        b
    });
    prop_oneof![valid, noise, prop::collection::vec(any::<u8>(), 0..900)]
}

proptest! {
    #[test]
    fn the_split_of_the_bytes_over_reads_does_not_matter(bytes in client_bytes(), cuts in prop::collection::vec(1..300usize, 1..40)) {
        let whole = run([bytes.as_slice()]);
        prop_assert_eq!(&run(bytes.chunks(1)), &whole);
        let mut pieces = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, tail) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        prop_assert_eq!(&run(pieces), &whole);
        if let HandshakeStep::Connect(_) = whole.last_step {
            prop_assert!(bytes.len() - whole.payload.len() <= MAX_BUFFERED);
            prop_assert!(bytes.ends_with(&whole.payload));
        }
    }
}
