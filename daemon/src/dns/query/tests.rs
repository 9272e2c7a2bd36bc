use super::*;
use crate::dns::Response;

/// A query for `name`, with the records of `rest` behind the question.
fn message(flags: u8, name: &[&str], kind: u16, additionals: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    let header = Header {
        id: 0x1234,
        flags,
        codes: 0x20,
        questions: 1,
        answers: 0,
        authorities: 0,
        additionals,
    };
    header.write(&mut message);
    for label in name {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message.extend(rest);
    message
}

/// An OPT record with DO and without options.
fn opt(size: u16) -> Vec<u8> {
    let [high, low] = size.to_be_bytes();
    vec![0, 0, 41, high, low, 0, 0, 0x80, 0, 0, 0]
}

fn forwarded(message: &[u8]) -> Query {
    match Query::parse(message) {
        QueryOutcome::Forward(query) => query,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_query_is_passed_on_with_another_id_and_unchanged_otherwise() {
    let sent = message(RD, &["www", "example"], 1, 0, &[]);
    let query = forwarded(&sent);
    assert_eq!((query.id(), query.datagram_size()), (0x1234, 512));
    let framed = query.framed_with_id(0xabcd);
    assert_eq!(framed[..4], [0, sent.len() as u8, 0xab, 0xcd]);
    assert_eq!(framed[4..], sent[2..]);
}

#[test]
fn the_size_of_edns_is_respected_and_is_512_at_least() {
    for (size, expected) in [(0, 512), (100, 512), (1232, 1232), (65535, 65535)] {
        let query = forwarded(&message(RD, &["a"], 1, 1, &opt(size)));
        assert_eq!(query.datagram_size(), expected, "{size}");
    }
}

#[test]
fn malformed_queries_get_formerr() {
    let mut two_questions = message(RD, &["a"], 1, 0, &[0, 0, 1, 0, 1]);
    two_questions[5] = 2;
    let mut no_question = message(RD, &["a"], 1, 0, &[]);
    no_question[5] = 0;
    let mut pointer = message(RD, &["a"], 1, 0, &[]);
    pointer[12] = 0xc0;
    let long = "x".repeat(63);
    let too_long = [&*long, &*long, &*long, &*long];
    let mut huge = message(RD, &["a"], 1, 0, &[]);
    huge.resize(MAX_QUERY_LEN + 1, 0);
    for bad in [
        two_questions,
        no_question,
        pointer,
        message(RD, &too_long, 1, 0, &[]),
        // A record that is missing, one that ends early, and two OPT records.
        message(RD, &["a"], 1, 1, &[]),
        message(RD, &["a"], 1, 1, &opt(512)[..10]),
        message(RD, &["a"], 1, 2, &[opt(512), opt(512)].concat()),
        message(RD, &["a"], 1, 0, &[])[..HEADER_LEN].to_vec(),
        huge,
    ] {
        match Query::parse(&bad) {
            QueryOutcome::Answer(answer) => {
                assert_eq!(answer, [0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
            }
            other => panic!("{bad:?}: {other:?}"),
        }
    }
}

#[test]
fn fragments_and_responses_get_no_answer() {
    for ignored in [
        &[][..],
        &[0; HEADER_LEN - 1],
        &message(QR | RD, &["a"], 1, 0, &[]),
    ] {
        assert_eq!(Query::parse(ignored), QueryOutcome::Ignore);
    }
}

#[test]
fn zone_transfers_are_refused() {
    for kind in [251, 252] {
        match Query::parse(&message(0, &["zone"], kind, 0, &[])) {
            QueryOutcome::Answer(answer) => assert_eq!(answer[3] & 0x0f, 5),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn servfail_repeats_the_question_and_says_why_where_edns_allows_it() {
    let why = Some(ExtendedError::network("no tunnel"));
    let plain = message(RD, &["a"], 1, 0, &[]);
    let answer = forwarded(&plain).error(ResponseCode::ServerFailure, why);
    assert_eq!(answer[..4], [0x12, 0x34, 0x81, 0x82]);
    assert_eq!(answer[4..12], [0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(answer[12..], plain[12..]);

    let query = forwarded(&message(RD, &["a"], 1, 1, &opt(4096)));
    let answer = query.error(ResponseCode::ServerFailure, why);
    assert_eq!(answer[11], 1);
    let record = &answer[plain.len()..];
    // Root, OPT, 1232 bytes, no extended code, version 0, DO, one option of 11 bytes.
    assert_eq!(record[..11], [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 15]);
    assert_eq!(record[11..17], [0, 15, 0, 11, 0, 23]);
    assert_eq!(&record[17..], b"no tunnel");
    let long = "ä".repeat(200);
    let answer = query.error(
        ResponseCode::ServerFailure,
        Some(ExtendedError::network(&long)),
    );
    assert!(answer.len() < 512);
    assert!(Response::parse(answer).unwrap().answers(&query));
}
