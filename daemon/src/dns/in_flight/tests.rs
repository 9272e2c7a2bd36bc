use std::time::Duration;

use super::*;
use crate::dns::QueryOutcome;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn query(id: u16, name: u8) -> Query {
    let [high, low] = id.to_be_bytes();
    let message = [
        high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, name, 0, 0, 1, 0, 1,
    ];
    match Query::parse(&message) {
        QueryOutcome::Forward(query) => query,
        other => panic!("{other:?}"),
    }
}

/// The server's answer to a message that was sent to it.
fn answer(framed: &[u8]) -> Vec<u8> {
    let mut answer = framed[2..].to_vec();
    answer[2] |= 0x80;
    answer
}

fn send<R>(queries: &mut InFlight<R>) -> Vec<u8> {
    queries.next_to_send(Instant::now()).unwrap().0
}

#[test]
fn equal_ids_of_clients_are_told_apart_and_answered_in_any_order() {
    let mut queries = InFlight::new();
    let deadline = Instant::now() + Duration::from_secs(1);
    for (name, reply) in [(b'a', 1), (b'b', 2)] {
        queries
            .insert(query(9, name), CLIENT, deadline, reply)
            .unwrap();
    }
    let (first, second) = (send(&mut queries), send(&mut queries));
    assert!(queries.unsent.is_empty());
    let (waiting, message) = queries.take_answered(answer(&second)).unwrap();
    assert_eq!((waiting.reply, &message[..2]), (2, &[0, 9][..]));
    // The same answer a second time, and one with another question.
    assert!(queries.take_answered(answer(&second)).is_none());
    let mut wrong = answer(&first);
    wrong[13] = b'z';
    assert!(queries.take_answered(wrong).is_none());
    assert_eq!(queries.take_answered(answer(&first)).unwrap().0.reply, 1);
    assert!(queries.is_empty() && queries.next_deadline().is_none());
}

#[test]
fn an_answer_to_a_query_that_was_not_sent_is_ignored() {
    let mut queries = InFlight::new();
    let deadline = Instant::now() + Duration::from_secs(1);
    queries
        .insert(query(9, b'a'), CLIENT, deadline, ())
        .unwrap();
    let framed = query(9, b'a').framed_with_id(0);
    assert!(queries.take_answered(answer(&framed)).is_none());
}

#[test]
fn a_query_is_asked_again_once_if_its_connections_bring_nothing() {
    let mut queries = InFlight::new();
    let deadline = Instant::now() + Duration::from_secs(1);
    queries
        .insert(query(1, b'a'), CLIENT, deadline, ())
        .unwrap();
    send(&mut queries);
    assert!(queries.connection_ended(true).is_empty());
    assert!(!queries.unsent.is_empty());
    // A session that is lost is not the server's doing.
    send(&mut queries);
    assert!(queries.connection_ended(false).is_empty());
    send(&mut queries);
    assert_eq!(queries.connection_ended(true).len(), 1);
    assert!(queries.is_empty() && queries.unsent.is_empty());
}

#[test]
fn a_server_that_answers_some_queries_per_connection_answers_all() {
    let mut queries = InFlight::new();
    let deadline = Instant::now() + Duration::from_secs(1);
    for id in 0..1000 {
        queries
            .insert(query(id, b'a'), CLIENT, deadline, id)
            .unwrap();
    }
    let mut answered = Vec::new();
    while !queries.is_empty() {
        let mut sent = Vec::new();
        while let Some((framed, _)) = queries.next_to_send(Instant::now()) {
            sent.push(framed);
        }
        for framed in sent.iter().take(100) {
            answered.push(queries.take_answered(answer(framed)).unwrap().0.reply);
        }
        assert!(queries.connection_ended(true).is_empty());
    }
    // The oldest are asked first.
    assert_eq!(answered, (0..1000).collect::<Vec<_>>());
}

#[test]
fn queries_expire_in_order_and_show_a_silent_connection() {
    let mut queries = InFlight::new();
    let now = Instant::now();
    for (reply, seconds) in [(2, 2), (1, 1), (4, 3), (3, 3)] {
        let deadline = now + Duration::from_secs(seconds);
        queries
            .insert(query(reply, b'a'), CLIENT, deadline, reply)
            .unwrap();
    }
    let sent = queries.next_to_send(now).unwrap().0;
    assert_eq!(queries.next_deadline(), Some(now + Duration::from_secs(1)));
    let expired = queries.expire(now + Duration::from_secs(1));
    assert_eq!(expired.queries.len(), 1);
    assert_eq!(expired.queries[0].reply, 1);
    assert!(!expired.is_connection_silent, "it was not sent");
    let expired = queries.expire(now + Duration::from_secs(2));
    assert_eq!(expired.queries[0].reply, 2);
    assert!(expired.is_connection_silent);
    assert!(queries.take_answered(answer(&sent)).is_none());
    // One that was sent a moment ago says nothing about the connection.
    queries.next_to_send(now + Duration::from_secs(2)).unwrap();
    let expired = queries.expire(now + Duration::from_secs(3));
    assert_eq!(expired.queries.len(), 2);
    assert!(!expired.is_connection_silent);
    queries.insert(query(5, b'a'), CLIENT, now, 5).unwrap();
    assert_eq!(queries.take_all().len(), 1);
    assert!(queries.next_to_send(Instant::now()).is_none());
}

#[test]
fn one_address_leaves_room_for_others() {
    let mut queries = InFlight::new();
    let deadline = Instant::now();
    for id in 0..MAX_OF_CLIENT as u16 {
        queries
            .insert(query(id, b'a'), CLIENT, deadline, ())
            .unwrap();
    }
    assert!(
        queries
            .insert(query(0, b'a'), CLIENT, deadline, ())
            .is_err()
    );
    let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
    assert!(
        queries
            .insert(query(0, b'a'), mapped, deadline, ())
            .is_err()
    );
    let other: IpAddr = "192.0.2.1".parse().unwrap();
    for id in 0..(MAX_QUERIES - MAX_OF_CLIENT) as u16 {
        queries
            .insert(query(id, b'a'), other, deadline, ())
            .unwrap();
    }
    let third: IpAddr = "192.0.2.2".parse().unwrap();
    assert!(queries.insert(query(0, b'a'), third, deadline, ()).is_err());
}
