//! The effect of single messages.

mod flow;
mod random;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::*;
use crate::wire::Writer;
use bytes::Bytes;

/// Keeps the packets that are sent, and counts UNIMPLEMENTED replies.
#[derive(Default)]
pub(super) struct Sent(pub(super) VecDeque<Vec<u8>>, usize);

impl PacketSink for Sent {
    fn send(&mut self, payload: &[u8]) {
        self.0.push_back(payload.to_vec());
    }
    fn send_parts(&mut self, header: &[u8], data: &[u8]) {
        self.0.push_back([header, data].concat());
    }
    fn last_sequence(&self) -> Option<u32> {
        None
    }
    fn reply_unimplemented(&mut self) {
        self.1 += 1;
    }
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(super) fn tcp() -> ChannelTarget {
    ChannelTarget::Tcp {
        host: b"target".to_vec(),
        port: 80,
        originator: ("127.0.0.1".into(), 1),
    }
}

pub(super) fn listen(port: u16) -> RemoteListen {
    RemoteListen::Tcp {
        address: "localhost".into(),
        port,
    }
}

pub(super) fn message(number: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = vec![number];
    fill(&mut out);
    out.into()
}

pub(super) fn confirmation(id: u32, remote: u32, window: u32, packet: u32) -> Bytes {
    message(message::OPEN_CONFIRMATION, |out| {
        out.u32(id);
        out.u32(remote);
        out.u32(window);
        out.u32(packet);
    })
}

pub(super) fn data(id: u32, bytes: &[u8]) -> Bytes {
    message(message::DATA, |out| {
        out.u32(id);
        out.string(bytes);
    })
}

fn for_channel(number: u8, id: u32) -> Bytes {
    Bytes::copy_from_slice(&message::for_channel(number, id))
}

pub(super) fn adjust(id: u32, credit: u32) -> Bytes {
    Bytes::copy_from_slice(&message::window_adjust(id, credit))
}

fn forwarded(port: u32, sender: u32, packet: u32) -> Bytes {
    message(message::OPEN, |out| {
        out.string("forwarded-tcpip");
        out.u32(sender);
        out.u32(1000);
        out.u32(packet);
        out.string("localhost");
        out.u32(port);
        out.string("10.0.0.9");
        out.u32(5);
    })
}

/// A connection with one open channel; the server's number for it is 77.
fn opened(window: u32) -> (Connection, Sent, ChannelId) {
    let mut connection = Connection::new(ConnectionConfig::default());
    let mut out = Sent::default();
    let id = connection.open_channel(&tcp(), now(), &mut out).unwrap();
    let answer = confirmation(id.0, 77, window, 32768);
    connection.handle_packet(now(), answer, &mut out).unwrap();
    assert_eq!(connection.poll_event(), Some(ConnectionEvent::Opened(id)));
    out.0.clear();
    (connection, out, id)
}

#[test]
fn many_channels_start_with_small_windows() {
    let mut connection = Connection::new(ConnectionConfig::default());
    let mut out = Sent::default();
    let mut windows = Vec::new();
    for _ in 0..1000 {
        connection.open_channel(&tcp(), now(), &mut out).unwrap();
        let last = connection.channels.iter().last().unwrap();
        windows.push(last.recv_window.available());
    }
    assert!(windows.iter().take(64).all(|window| *window == 2 << 20));
    let all: u64 = windows.iter().map(|window| u64::from(*window)).sum();
    assert!(all < 256 << 20, "{} MiB", all >> 20);
    assert_eq!(windows.last(), Some(&(64 * 1024)));
}

#[test]
fn an_unread_channel_accepts_one_window_and_no_more() {
    let (mut connection, mut out, id) = opened(0);
    let packet = data(id.0, &[7; 32768]);
    for _ in 0..64 {
        connection
            .handle_packet(now(), packet.clone(), &mut out)
            .unwrap();
    }
    assert!(out.0.is_empty(), "credit was granted to a stalled reader");
    assert!(matches!(
        connection.handle_packet(now(), data(id.0, b"x"), &mut out),
        Err(Error::Protocol(_))
    ));
}

#[test]
fn credit_follows_consumption_and_not_the_read() {
    let (mut connection, mut out, id) = opened(0);
    let packet = data(id.0, &[7; 32768]);
    for _ in 0..64 {
        connection
            .handle_packet(now(), packet.clone(), &mut out)
            .unwrap();
    }
    for _ in 0..8 {
        assert!(matches!(
            connection.read(id, now(), &mut out),
            ReadResult::Data(_)
        ));
    }
    assert!(out.0.is_empty());
    assert!(matches!(
        connection.read(id, now(), &mut out),
        ReadResult::Data(_)
    ));
    assert_eq!(out.0, [message::window_adjust(77, 8 * 32768).to_vec()]);
}

#[test]
fn eof_and_close_without_eof_are_told_apart() {
    for (messages, end) in [
        (&[message::EOF][..], ReadResult::Eof),
        (&[message::EOF, message::CLOSE], ReadResult::Eof),
        (&[message::CLOSE], ReadResult::Reset),
    ] {
        let (mut connection, mut out, id) = opened(10);
        connection
            .handle_packet(now(), data(id.0, b"abc"), &mut out)
            .unwrap();
        for number in messages {
            connection
                .handle_packet(now(), for_channel(*number, id.0), &mut out)
                .unwrap();
        }
        assert_eq!(
            connection.read(id, now(), &mut out),
            ReadResult::Data(Bytes::from_static(b"abc"))
        );
        assert_eq!(connection.read(id, now(), &mut out), end);
    }
}

#[test]
fn close_is_answered_once_and_the_number_is_freed_with_the_handles() {
    let (mut connection, mut out, id) = opened(10);
    connection
        .handle_packet(now(), for_channel(message::CLOSE, id.0), &mut out)
        .unwrap();
    assert_eq!(out.0, [message::for_channel(message::CLOSE, 77).to_vec()]);
    assert_eq!(
        connection.write(id, b"x", &mut out),
        Err(WriteError::Closed)
    );
    assert_eq!(connection.channel_count(), 1);
    connection.drop_writer(id, &mut out);
    connection.drop_reader(id, now(), &mut out);
    assert_eq!(connection.channel_count(), 0);
    assert_eq!(out.0.len(), 1);
}

#[test]
fn data_after_our_close_is_discarded_and_not_a_violation() {
    let (mut connection, mut out, id) = opened(10);
    connection.drop_reader(id, now(), &mut out);
    connection.drop_writer(id, &mut out);
    assert_eq!(out.0, [message::for_channel(message::CLOSE, 77).to_vec()]);
    for _ in 0..64 {
        connection
            .handle_packet(now(), data(id.0, &[0; 32768]), &mut out)
            .unwrap();
    }
    connection
        .handle_packet(now(), for_channel(message::CLOSE, id.0), &mut out)
        .unwrap();
    assert_eq!(
        (connection.channel_count(), connection.violations()),
        (0, 0)
    );
}

#[test]
fn an_abandoned_open_is_closed_when_it_is_confirmed() {
    let mut connection = Connection::new(ConnectionConfig::default());
    let mut out = Sent::default();
    let id = connection.open_channel(&tcp(), now(), &mut out).unwrap();
    connection.drop_reader(id, now(), &mut out);
    connection.drop_writer(id, &mut out);
    out.0.clear();
    connection
        .handle_packet(now(), confirmation(id.0, 5, 1, 32768), &mut out)
        .unwrap();
    assert_eq!(out.0, [message::for_channel(message::CLOSE, 5).to_vec()]);
    connection
        .handle_packet(now(), for_channel(message::CLOSE, id.0), &mut out)
        .unwrap();
    assert_eq!(connection.channel_count(), 0);
    assert_eq!(
        connection
            .poll_event()
            .map(|event| matches!(event, ConnectionEvent::Opened(_))),
        Some(false)
    );
}

#[test]
fn a_refusal_has_code_and_bounded_text() {
    let mut connection = Connection::new(ConnectionConfig::default());
    let mut out = Sent::default();
    let id = connection.open_channel(&tcp(), now(), &mut out).unwrap();
    let answer = message(message::OPEN_FAILURE, |out| {
        out.u32(id.0);
        out.u32(2);
        out.string("x".repeat(5000));
        out.string("");
    });
    connection.handle_packet(now(), answer, &mut out).unwrap();
    let Some(ConnectionEvent::OpenFailed { code: 2, text, .. }) = connection.poll_event() else {
        panic!("no refusal");
    };
    assert_eq!(text.len(), 1024);
    connection.drop_reader(id, now(), &mut out);
    connection.drop_writer(id, &mut out);
    assert_eq!((connection.channel_count(), out.0.len()), (0, 1));
}

#[test]
fn messages_that_end_the_session() {
    let (_, _, id) = opened(0);
    for packet in [
        confirmation(id.0, 1, 1, 1),
        confirmation(99, 1, 1, 32768),
        adjust(id.0, u32::MAX),
        for_channel(message::REQUEST_SUCCESS, 0),
        Bytes::from_static(&[message::REQUEST_FAILURE]),
        for_channel(message::OPEN_FAILURE, id.0),
        message(message::DATA, |out| out.u32(id.0)),
    ] {
        let (mut connection, mut out, _) = opened(1);
        assert!(
            connection
                .handle_packet(now(), packet.clone(), &mut out)
                .is_err(),
            "{packet:?}"
        );
    }
}

#[test]
fn a_maximum_packet_size_of_zero_ends_the_session() {
    let mut connection = Connection::new(ConnectionConfig::default());
    let mut out = Sent::default();
    let id = connection.open_channel(&tcp(), now(), &mut out).unwrap();
    assert!(
        connection
            .handle_packet(now(), confirmation(id.0, 1, 1, 0), &mut out)
            .is_err()
    );
}

#[test]
fn unrequested_channels_are_prohibited_and_a_flood_ends_the_session() {
    let (mut connection, mut out, _) = opened(1);
    let time = now();
    for kind in ["session", "x11", "auth-agent@openssh.com", "direct-tcpip"] {
        let open = message(message::OPEN, |out| {
            out.string(kind);
            out.u32(3);
            out.u32(1);
            out.u32(32768);
        });
        connection.handle_packet(time, open, &mut out).unwrap();
        let answer = out.0.pop_back().unwrap();
        assert_eq!(answer[..9], [92, 0, 0, 0, 3, 0, 0, 0, 1]);
    }
    let until = (0..100)
        .take_while(|_| {
            connection
                .handle_packet(time, forwarded(80, 1, 32768), &mut out)
                .is_ok()
        })
        .count();
    assert_eq!(until, 16);
    assert_eq!(connection.poll_event(), None);
}

#[test]
fn a_forward_opens_channels_until_it_is_cancelled() {
    let mut connection = Connection::new(ConnectionConfig::default());
    let mut out = Sent::default();
    let asked = connection.request_forward(&listen(0), &mut out).unwrap();
    let granted = message(message::REQUEST_SUCCESS, |out| out.u32(8080));
    connection.handle_packet(now(), granted, &mut out).unwrap();
    assert_eq!(
        connection.poll_event(),
        Some(ConnectionEvent::Reply(asked, GlobalReply::Listening(8080)))
    );

    connection
        .handle_packet(now(), forwarded(8080, 9, 32768), &mut out)
        .unwrap();
    let Some(ConnectionEvent::Incoming(incoming)) = connection.poll_event() else {
        panic!("no channel");
    };
    assert_eq!(
        (incoming.bound_port, incoming.originator.as_str()),
        (8080, "10.0.0.9:5")
    );
    assert_eq!(incoming.listen, listen(0));
    connection.accept_channel(incoming.channel, &mut out);
    assert_eq!(out.0.back().unwrap()[..5], [91, 0, 0, 0, 9]);

    connection.cancel_forward(&listen(0), &mut out).unwrap();
    let cancel = out.0.back().unwrap();
    assert_eq!(cancel[cancel.len() - 4..], 8080u32.to_be_bytes());
    connection
        .handle_packet(now(), forwarded(8080, 10, 32768), &mut out)
        .unwrap();
    assert_eq!(connection.poll_event(), None);
    assert_eq!(connection.violations(), 0, "it crossed the cancel request");
    connection
        .handle_packet(
            now(),
            Bytes::from_static(&[message::REQUEST_SUCCESS]),
            &mut out,
        )
        .unwrap();
    connection
        .handle_packet(now(), forwarded(8080, 11, 32768), &mut out)
        .unwrap();
    assert_eq!(connection.violations(), 1);
}

#[test]
fn an_abandoned_forward_is_cancelled_when_it_is_granted() {
    let mut connection = Connection::new(ConnectionConfig::default());
    let mut out = Sent::default();
    let asked = connection.request_forward(&listen(80), &mut out).unwrap();
    connection.abandon_forward(asked);
    out.0.clear();
    connection
        .handle_packet(
            now(),
            Bytes::from_static(&[message::REQUEST_SUCCESS]),
            &mut out,
        )
        .unwrap();
    assert_eq!(out.0, [message::forward_request(&listen(80), true)]);
}

#[test]
fn requests_are_answered_only_if_wanted_and_are_limited() {
    let (mut connection, mut out, id) = opened(1);
    let request = |reply: bool| {
        message(message::GLOBAL_REQUEST, |out| {
            out.string("keepalive@openssh.com");
            out.bool(reply);
        })
    };
    connection
        .handle_packet(now(), request(false), &mut out)
        .unwrap();
    assert!(out.0.is_empty());
    connection
        .handle_packet(now(), request(true), &mut out)
        .unwrap();
    assert_eq!(out.0.pop_back().unwrap(), [message::REQUEST_FAILURE]);
    let exec = message(message::CHANNEL_REQUEST, |out| {
        out.u32(id.0);
        out.string("exec");
        out.bool(true);
    });
    connection.handle_packet(now(), exec, &mut out).unwrap();
    assert_eq!(
        out.0.pop_back().unwrap()[..],
        message::for_channel(message::CHANNEL_FAILURE, 77)
    );
    let time = now() + Duration::from_secs(5);
    let until = (0..2000)
        .take_while(|_| {
            connection
                .handle_packet(time, request(true), &mut out)
                .is_ok()
        })
        .count();
    assert_eq!(until, 1000);
}

#[test]
fn host_keys_are_reported_and_bounded() {
    let (mut connection, mut out, _) = opened(1);
    let keys = |count: usize| {
        message(message::GLOBAL_REQUEST, |out| {
            out.string("hostkeys-00@openssh.com");
            out.bool(false);
            for _ in 0..count {
                out.string("key");
            }
        })
    };
    connection.handle_packet(now(), keys(2), &mut out).unwrap();
    let key = Bytes::from_static(b"key");
    assert_eq!(
        connection.poll_event(),
        Some(ConnectionEvent::HostKeys(vec![key.clone(), key]))
    );
    assert!(
        connection
            .handle_packet(now(), keys(10_000), &mut out)
            .is_err()
    );
}

#[test]
fn a_ping_measures_the_round_trip() {
    let (mut connection, mut out, _) = opened(1);
    let sent = now();
    let id = connection.ping(sent, &mut out).unwrap();
    let rtt = Duration::from_millis(30);
    connection
        .handle_packet(
            sent + rtt,
            Bytes::from_static(&[message::REQUEST_FAILURE]),
            &mut out,
        )
        .unwrap();
    assert_eq!(
        connection.poll_event(),
        Some(ConnectionEvent::Reply(id, GlobalReply::Pong(rtt)))
    );
    assert_eq!(connection.rtt(), Some(rtt));
}
