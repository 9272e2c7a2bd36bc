//! The fuzz target of the workspace folder `fuzz/` for DNS messages, and tests that replay its corpus on a stable compiler.

use super::{ExtendedError, Query, QueryOutcome, Response, ResponseCode, fit_datagram};

/// Two messages, the first with its length in front: a client's query and a server's response.
pub fn dns(bytes: &[u8]) {
    let Some((&len, rest)) = bytes.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_be_bytes(len)).min(rest.len());
    let (client, server) = rest.split_at(len);
    exchange(client, server);
}

/// Bytes of a client as a query, and bytes of a server as the response to it. Nothing panics, answers fit, and each message
/// that is made here can be read again.
fn exchange(client: &[u8], server: &[u8]) {
    let query = match Query::parse(client) {
        QueryOutcome::Forward(query) => query,
        QueryOutcome::Answer(answer) => {
            assert!(Response::parse(answer).is_some(), "the answer has a header");
            return;
        }
        QueryOutcome::Ignore => return,
    };
    let framed = query.framed_with_id(7);
    assert_eq!(framed.len(), 2 + client.len());
    let error = query.error(
        ResponseCode::ServerFailure,
        Some(ExtendedError::network("the tunnel is away")),
    );
    assert!(
        Response::parse(error.clone()).is_some_and(|error| error.answers(&query)),
        "it answers its query"
    );
    assert!(fit_datagram(error, 512).len() <= 512);
    if let Some(response) = Response::parse(server.to_vec()) {
        let _ = response.answers(&query);
        let message = response.into_message(query.id());
        for limit in [512, query.datagram_size()] {
            let short = fit_datagram(message.clone(), limit);
            assert!(short.len() <= limit);
            assert!(Response::parse(short).is_some(), "it is still a response");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header with plausible counts, then a name, then anything: random bytes alone rarely get past the question.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let header = (any::<[u8; 4]>(), 0..3u8, 0..3u8, 0..3u8, 0..3u8);
        let rest = prop::collection::vec(
            prop_oneof![
                Just(vec![0]),
                Just(vec![3, b'a', b'b', b'c']),
                Just(vec![0xc0, 12]),
                Just(vec![0, 1, 0, 1]),
                Just(vec![0, 0, 41, 4, 208, 0, 0, 128, 0, 0, 0]),
                prop::collection::vec(any::<u8>(), 0..20),
            ],
            0..8,
        );
        (header, rest).prop_map(|((start, qd, an, ns, ar), rest)| {
            let mut message = start.to_vec();
            message.extend([0, qd, 0, an, 0, ns, 0, ar]);
            message.extend(rest.concat());
            message
        })
    }

    fn corpus() -> Vec<Vec<u8>> {
        let daemon = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(daemon.join("../fuzz/corpus/dns")).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn the_corpus_passes() {
        assert!(!corpus().is_empty());
        for seed in corpus() {
            dns(&seed);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn varied_seeds_pass(seed in prop::sample::select(corpus()), at: prop::sample::Index, byte: u8, end: prop::sample::Index) {
            let mut seed = seed;
            let at = at.index(seed.len());
            seed[at] = byte;
            dns(&seed);
            seed.truncate(end.index(seed.len()));
            dns(&seed);
        }

        #[test]
        fn random_bytes_pass(client in prop::collection::vec(any::<u8>(), 0..600), server: Vec<u8>) {
            exchange(&client, &server);
        }

        #[test]
        fn plausible_messages_pass(client in message(), server in message(), padding in 0..3000usize) {
            let mut server = server;
            server.extend(std::iter::repeat_n(0u8, padding));
            exchange(&client, &server);
        }
    }
}
