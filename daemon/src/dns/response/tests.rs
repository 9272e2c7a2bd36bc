use super::*;
use crate::dns::{QueryOutcome, message::u16_at};

/// A message with this question, then `rest`.
fn message(flags: [u8; 2], counts: [u8; 4], name: &[u8], kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![0, 7, flags[0], flags[1]];
    message.extend(counts.iter().flat_map(|&count| [0, count]));
    message.push(name.len() as u8);
    message.extend(name);
    message.extend([0, 0, kind, 0, 1]);
    message.extend(rest);
    message
}

fn query(name: &[u8], kind: u8) -> Query {
    match Query::parse(&message([1, 0], [1, 0, 0, 0], name, kind, &[])) {
        QueryOutcome::Forward(query) => query,
        other => panic!("{other:?}"),
    }
}

fn is_answer(response: Vec<u8>, query: &Query) -> bool {
    Response::parse(response).is_some_and(|response| response.answers(query))
}

#[test]
fn a_response_must_be_one_and_have_the_question() {
    let query = query(b"ab", 65);
    let response = |flags, counts, name: &[u8], kind| message(flags, counts, name, kind, &[]);
    let ok = [0x81, 0x80];
    assert!(is_answer(response(ok, [1, 0, 0, 0], b"ab", 65), &query));
    assert!(is_answer(response(ok, [1, 0, 0, 0], b"aB", 65), &query));
    // 97 is 65 in lower case.
    assert!(!is_answer(response(ok, [1, 0, 0, 0], b"ab", 97), &query));
    assert!(!is_answer(response(ok, [1, 0, 0, 0], b"ac", 65), &query));
    assert!(!is_answer(response(ok, [1, 0, 0, 0], b"abc", 65), &query));
    assert!(!is_answer(response(ok, [2, 0, 0, 0], b"ab", 65), &query));
    // A query, and another operation.
    assert!(!is_answer(
        response([1, 0x80], [1, 0, 0, 0], b"ab", 65),
        &query
    ));
    assert!(!is_answer(
        response([0xa1, 0x80], [1, 0, 0, 0], b"ab", 65),
        &query
    ));
    assert_eq!(Response::parse(vec![0, 7, 0x81, 0x80]), None);
}

#[test]
fn only_an_error_may_lack_the_question() {
    let query = query(b"a", 1);
    let format_error = vec![0, 7, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(is_answer(format_error.clone(), &query));
    let mut success = format_error;
    success[3] = 0x80;
    assert!(!is_answer(success, &query));
}

#[test]
fn the_client_gets_its_own_id() {
    let response = Response::parse(message([0x81, 0x80], [1, 0, 0, 0], b"a", 1, &[])).unwrap();
    assert_eq!(response.id(), 7);
    assert_eq!(u16_at(&response.into_message(0xbeef), 0), Some(0xbeef));
}

#[test]
fn an_answer_that_does_not_fit_keeps_question_and_opt_and_says_so() {
    // Two TXT records of 400 bytes, then OPT with an option of 4 bytes.
    let mut records = Vec::new();
    for _ in 0..2 {
        records.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 1, 0x90]);
        records.extend([b'x'; 400]);
    }
    let opt = [
        0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 8, 0, 9, 0, 4, 1, 2, 3, 4,
    ];
    records.extend(opt);
    let full = message([0x81, 0x80], [1, 2, 0, 1], b"big", 16, &records);
    assert_eq!(fit_datagram(full.clone(), full.len()), full);
    let short = fit_datagram(full.clone(), full.len() - 1);
    let question_end = 12 + 5 + 4;
    assert_eq!(short[..4], [0, 7, 0x83, 0x80]);
    assert_eq!(short[4..12], [0, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(short[12..question_end], full[12..question_end]);
    assert_eq!(short[question_end..], opt);
}

#[test]
fn options_that_do_not_fit_are_left_out() {
    let mut opt = vec![0, 0, 41, 4, 208, 0, 0, 0x80, 0, 2, 88];
    opt.extend([0; 600]);
    let full = message([0x81, 0x80], [1, 0, 0, 1], b"big", 16, &opt);
    let short = fit_datagram(full, 512);
    assert_eq!(short[21..], [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
}

#[test]
fn a_long_answer_with_malformed_records_is_shortened_without_opt() {
    let full = message([0x81, 0x80], [1, 9, 9, 9], b"big", 16, &[0xff; 600]);
    let short = fit_datagram(full.clone(), 512);
    assert_eq!(short[4..12], [0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(short[12..], full[12..21]);
}
