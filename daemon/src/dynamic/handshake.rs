//! One client's conversation up to its request, whatever the protocol and however its bytes are cut.

use super::{Parsed, Protocol, Reply, Request, socks4, socks5};

/// No request, with all that stands before it, is longer.
const LONGEST: usize = 600;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read more, and push it.
    More,
    /// Send this, and take the next step.
    Send(Vec<u8>),
    /// Open this connection; what follows in the buffer is its first payload.
    Connect(Request),
    /// Send this, and close.
    Refuse(Vec<u8>),
    /// Close without a word.
    Close,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    First,
    Socks4,
    Greeting,
    Socks5,
}

/// A conversation.
#[derive(Debug)]
pub struct Handshake {
    stage: Stage,
    bytes: Vec<u8>,
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    /// One that has heard nothing.
    pub fn new() -> Self {
        Self {
            stage: Stage::First,
            bytes: Vec::new(),
        }
    }

    /// How many bytes may be pushed now; never 0 after [`Step::More`].
    pub fn room(&self) -> usize {
        LONGEST.saturating_sub(self.bytes.len())
    }

    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What came after the request.
    pub fn into_payload(self) -> Vec<u8> {
        self.bytes
    }

    /// What to do next, by what came so far.
    pub fn step(&mut self) -> Step {
        match self.stage {
            Stage::First => {
                let Some(&first) = self.bytes.first() else {
                    return Step::More;
                };
                self.stage = match Protocol::of(first) {
                    Some(Protocol::Socks4) => Stage::Socks4,
                    Some(Protocol::Socks5) => Stage::Greeting,
                    None => return Step::Close,
                };
                self.step()
            }
            Stage::Greeting => match socks5::greeting(&self.bytes) {
                Parsed::Whole(true, taken) => {
                    self.bytes.drain(..taken);
                    self.stage = Stage::Socks5;
                    Step::Send(socks5::METHOD_CHOSEN.to_vec())
                }
                Parsed::Whole(false, _) => Step::Refuse(socks5::NO_METHOD.to_vec()),
                Parsed::Short => Step::More,
                Parsed::Refused(_) | Parsed::Broken => Step::Close,
            },
            Stage::Socks4 => self.request(socks4::request, socks4::answer),
            Stage::Socks5 => self.request(socks5::request, socks5::answer),
        }
    }

    fn request(
        &mut self,
        parse: fn(&[u8]) -> Parsed<Request>,
        answer: fn(Reply) -> Vec<u8>,
    ) -> Step {
        match parse(&self.bytes) {
            Parsed::Whole(request, taken) => {
                self.bytes.drain(..taken);
                Step::Connect(request)
            }
            Parsed::Short => Step::More,
            Parsed::Refused(reply) => Step::Refuse(answer(reply)),
            Parsed::Broken => Step::Close,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::super::Host;
    use super::*;

    /// All that a conversation comes to: what was sent, how it ended, what was left over.
    #[derive(Debug, PartialEq)]
    struct Outcome {
        sent: Vec<u8>,
        end: Step,
        payload: Vec<u8>,
    }

    /// Plays `bytes` in the given pieces; a piece that does not fit is cut as a reader would.
    fn play<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut handshake = Handshake::new();
        let mut sent = Vec::new();
        let mut end = Step::More;
        let mut beyond = Vec::new();
        for mut piece in pieces {
            while !piece.is_empty() {
                if end != Step::More {
                    beyond.extend_from_slice(piece);
                    break;
                }
                let (now, later) = piece.split_at(handshake.room().min(piece.len()));
                assert!(!now.is_empty(), "more is wanted, and there is room");
                handshake.push(now);
                piece = later;
                loop {
                    end = handshake.step();
                    match &end {
                        Step::Send(bytes) => sent.extend_from_slice(bytes),
                        _ => break,
                    }
                }
            }
        }
        let mut payload = Vec::new();
        if matches!(end, Step::Connect(_)) {
            payload = handshake.into_payload();
            payload.extend(beyond);
        }
        Outcome { sent, end, payload }
    }

    fn socks5(command: u8, kind: u8, address: &[u8], port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 5, command, 0, kind];
        bytes.extend_from_slice(address);
        bytes.extend_from_slice(&port.to_be_bytes());
        bytes
    }

    fn named(name: &[u8]) -> Vec<u8> {
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

    fn connect(outcome: &Outcome) -> (&Host, u16) {
        match &outcome.end {
            Step::Connect(request) => (&request.host, request.port),
            other => panic!("no connection: {other:?}"),
        }
    }

    #[test]
    fn a_stranger_is_closed_without_a_reply() {
        for first in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            &[0x16, 3, 1],
            b"SSH-2.0-x",
            &[0],
        ] {
            let outcome = play([first]);
            assert_eq!((outcome.end, outcome.sent), (Step::Close, vec![]));
        }
    }

    #[test]
    fn socks5_takes_all_three_kinds_of_address() {
        let outcome = play([socks5(1, 1, &[10, 0, 0, 7], 443).as_slice()]);
        assert_eq!(outcome.sent, [5, 0]);
        assert_eq!(
            connect(&outcome),
            (&Host::Ip("10.0.0.7".parse::<IpAddr>().unwrap()), 443)
        );
        let mut v6 = [0; 16];
        v6[15] = 1;
        let outcome = play([socks5(1, 4, &v6, 22).as_slice()]);
        assert_eq!(connect(&outcome), (&Host::Ip("::1".parse().unwrap()), 22));
    }

    #[test]
    fn names_go_on_untouched() {
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
                connect(&play([named(name).as_slice()])).0,
                &Host::Name(name.to_vec())
            );
            let bytes = socks4(1, 80, [0, 0, 0, 9], &[b"me", name]);
            assert_eq!(
                connect(&play([bytes.as_slice()])).0,
                &Host::Name(name.to_vec())
            );
        }
    }

    #[test]
    fn bad_requests_get_their_code() {
        for (bytes, code) in [
            (named(b""), 1),
            (named(b"a\0b"), 1),
            (named(b"a\nb"), 1),
            (named(b"a\x1b[0m"), 1),
            (named(b"a\x7f"), 1),
            (socks5(1, 1, &[1, 2, 3, 4], 0), 1),
            (socks5(2, 1, &[1, 2, 3, 4], 80), 7),
            (socks5(3, 1, &[0, 0, 0, 0], 0), 7),
            (socks5(9, 1, &[1, 2, 3, 4], 80), 7),
            (socks5(1, 9, &[1, 2, 3, 4], 80), 8),
        ] {
            let outcome = play([bytes.as_slice()]);
            let reply = vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0];
            assert_eq!(outcome.end, Step::Refuse(reply), "{bytes:?}");
        }
        for bytes in [
            socks4(2, 80, [1, 2, 3, 4], &[b""]),
            socks4(1, 0, [1, 2, 3, 4], &[b""]),
            socks4(1, 80, [0, 0, 0, 1], &[b"", b""]),
            socks4(1, 80, [0, 0, 0, 1], &[b"", b"a\nb"]),
        ] {
            let outcome = play([bytes.as_slice()]);
            assert_eq!(
                outcome.end,
                Step::Refuse(vec![0, 91, 0, 0, 0, 0, 0, 0]),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn methods_are_chosen_by_what_is_offered() {
        assert_eq!(play([&[5u8, 0][..]]).end, Step::Refuse(vec![5, 0xff]));
        assert_eq!(play([&[5u8, 1, 1][..]]).end, Step::Refuse(vec![5, 0xff]));
        let mut all = vec![5, 255];
        all.extend((0..255).rev());
        assert_eq!(play([all.as_slice()]).sent, [5, 0]);
    }

    #[test]
    fn a_change_of_version_breaks_off() {
        let outcome = play([&[5u8, 1, 0, 4, 1, 0, 1][..]]);
        assert_eq!((outcome.end, outcome.sent), (Step::Close, vec![5, 0]));
    }

    #[test]
    fn socks4_texts_without_an_end_break_off_at_255() {
        let mut user = vec![4, 1, 0, 80, 1, 2, 3, 4];
        user.extend([b'u'; 255]);
        assert_eq!(play([user.as_slice()]).end, Step::More);
        user.push(b'u');
        assert_eq!(play([user.as_slice()]).end, Step::Close);
        let mut host = socks4(1, 80, [0, 0, 0, 1], &[&[b'u'; 255]]);
        host.extend(vec![b'h'; 1_000_000]);
        assert_eq!(play([host.as_slice()]).end, Step::Close);
    }

    #[test]
    fn payload_behind_the_request_is_kept_once_and_in_order() {
        let mut bytes = named(b"host");
        bytes.extend((0..3000u32).map(|i| i as u8));
        let outcome = play(bytes.chunks(7));
        assert_eq!(
            outcome.payload,
            (0..3000u32).map(|i| i as u8).collect::<Vec<_>>()
        );
    }

    fn conversation() -> impl Strategy<Value = Vec<u8>> {
        let name = prop::collection::vec(any::<u8>(), 0..=255);
        let valid = (
            name,
            any::<u16>(),
            prop::collection::vec(any::<u8>(), 0..700),
            any::<bool>(),
        )
            .prop_map(|(name, port, payload, five)| {
                let mut bytes = if five {
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
        fn any_cut_gives_the_same(bytes in conversation(), cuts in prop::collection::vec(1..300usize, 1..40)) {
            let whole = play([bytes.as_slice()]);
            prop_assert_eq!(&play(bytes.chunks(1)), &whole);
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = later;
            }
            prop_assert_eq!(&play(pieces), &whole);
            if let Step::Connect(_) = whole.end {
                prop_assert!(bytes.len() - whole.payload.len() <= LONGEST);
                prop_assert!(bytes.ends_with(&whole.payload));
            }
        }
    }
}
