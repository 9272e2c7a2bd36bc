//! The fuzz target of the workspace folder `fuzz/` for the SOCKS parsers, and tests that replay its corpus on a stable
//! compiler.

use super::{ConnectReply, Handshake, HandshakeStep};

/// Longest destination in bytes: a name of 255 bytes.
const MAX_HOST: usize = 255;

/// The bytes of one client. The steps do not depend on how the bytes are split over reads, and a request that is
/// accepted names a host and a port that can be passed on.
pub fn socks(bytes: &[u8]) {
    let (open, closed) = (Handshake::new, Handshake::with_login);
    let at_once = steps(open(), bytes, usize::MAX);
    assert_eq!(at_once, steps(open(), bytes, 1));
    let with_login = steps(closed(), bytes, usize::MAX);
    assert_eq!(with_login, steps(closed(), bytes, 1));
    let connects = |step: &HandshakeStep| matches!(step, HandshakeStep::Connect(_));
    let logs_in = |step: &HandshakeStep| matches!(step, HandshakeStep::CheckLogin(_));
    // Nothing connects without a login.
    assert!(!with_login.iter().any(connects) || with_login.iter().any(logs_in));
    for step in at_once.into_iter().chain(with_login) {
        if let HandshakeStep::Connect(request) = step {
            assert!((1..=MAX_HOST).contains(&request.host.to_bytes().len()));
            assert_ne!(request.port, 0);
            assert!(!request.encode_reply(ConnectReply::Granted).is_empty());
        }
    }
}

/// Gives a handshake its bytes in parts of at most `part` bytes and returns all steps but the reading ones. Every login is
/// accepted.
fn steps(mut handshake: Handshake, mut bytes: &[u8], part: usize) -> Vec<HandshakeStep> {
    let mut steps = Vec::new();
    loop {
        match handshake.step() {
            HandshakeStep::ReadMore => {
                assert!(handshake.capacity() > 0, "it reads more than it keeps");
                let now = part.min(handshake.capacity()).min(bytes.len());
                let (read, rest) = bytes.split_at(now);
                if read.is_empty() {
                    return steps;
                }
                handshake.push(read);
                bytes = rest;
            }
            step @ HandshakeStep::Send(_) => steps.push(step),
            step @ HandshakeStep::CheckLogin(_) => {
                steps.push(step);
                steps.push(handshake.login_checked(true));
            }
            last => {
                steps.push(last);
                return steps;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn corpus() -> Vec<Vec<u8>> {
        let daemon = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(daemon.join("../fuzz/corpus/socks")).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn the_corpus_passes() {
        let inputs = corpus();
        assert!(!inputs.is_empty());
        for input in inputs {
            socks(&input);
        }
    }

    /// The corpus reaches what lies behind the first checks.
    #[test]
    fn the_corpus_has_requests_of_each_protocol() {
        let inputs = corpus().into_iter();
        let requests = inputs.filter(|input| {
            matches!(
                steps(Handshake::new(), input, usize::MAX).last(),
                Some(HandshakeStep::Connect(_))
            )
        });
        assert!(requests.count() >= 4);
    }

    proptest! {
        #[test]
        fn the_varied_corpus_passes(
            pick: prop::sample::Index,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut: prop::sample::Index,
        ) {
            let mut bytes = pick.get(&corpus()).clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            socks(&bytes);
            socks(&bytes[..cut.index(bytes.len())]);
        }
    }
}
