//! Random operations against a model of the server, and arbitrary messages.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use super::{Sent, adjust, confirmation, data, listen, message, now, tcp};
use crate::wire::Writer;

#[derive(Debug, Clone)]
enum Op {
    Receive(usize, u16),
    ReceiveExtended(usize, u16),
    Read(usize),
    Write(usize, u16),
    Adjust(usize, u16),
    Eof(usize),
    Wait(u16),
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..3usize;
    prop_oneof![
        4 => (which.clone(), any::<u16>()).prop_map(|(c, n)| Op::Receive(c, n)),
        1 => (which.clone(), any::<u16>()).prop_map(|(c, n)| Op::ReceiveExtended(c, n)),
        4 => which.clone().prop_map(Op::Read),
        3 => (which.clone(), any::<u16>()).prop_map(|(c, n)| Op::Write(c, n)),
        2 => (which.clone(), any::<u16>()).prop_map(|(c, n)| Op::Adjust(c, n)),
        1 => which.prop_map(Op::Eof),
        1 => any::<u16>().prop_map(Op::Wait),
    ]
}

/// The model of one channel at the server.
#[derive(Default)]
struct ModelChannel {
    /// Bytes that the server may still send.
    window: u64,
    /// Bytes that were sent and that the client's reader has not read.
    unread: VecDeque<u8>,
    written: Vec<u8>,
    arrived: Vec<u8>,
    granted: u64,
    eof: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// No byte is lost or repeated, unread bytes stay within the window, and a reader that continues restores the
    /// window.
    #[test]
    fn flow_control_matches_the_model(ops in proptest::collection::vec(op(), 1..300)) {
        let limits = WindowLimits { initial: 100_000, max: 400_000, session_total: 1 << 30 };
        let mut connection = Connection::new(ConnectionConfig { window: limits, ..ConnectionConfig::default() });
        let mut out = Sent::default();
        let mut time = now();
        let mut byte = 0u8;
        let mut peers: Vec<ModelChannel> = Vec::new();
        let mut ids = Vec::new();
        for remote in 0..3u32 {
            let id = connection.open_channel(&tcp(), now(), &mut out).unwrap();
            connection.handle_packet(time, confirmation(id.0, remote, 1000, 32768), &mut out).unwrap();
            ids.push(id);
            peers.push(ModelChannel { window: 100_000, granted: 1000, ..ModelChannel::default() });
        }
        let ping = connection.ping(time, &mut out);
        prop_assert!(ping.is_some());
        time += Duration::from_millis(20);
        connection.handle_packet(time, Bytes::from_static(&[message::REQUEST_FAILURE]), &mut out).unwrap();
        out.0.clear();
        for op in ops {
            match op {
                Op::Receive(c, n) => {
                    let n = u64::from(n).min(peers[c].window).min(32768) as usize;
                    let bytes: Vec<u8> = (0..n).map(|_| { byte = byte.wrapping_mul(31).wrapping_add(7); byte }).collect();
                    peers[c].window -= n as u64;
                    peers[c].unread.extend(&bytes);
                    connection.handle_packet(time, data(ids[c].0, &bytes), &mut out).unwrap();
                }
                Op::ReceiveExtended(c, n) => {
                    let n = u64::from(n).min(peers[c].window).min(32768) as usize;
                    peers[c].window -= n as u64;
                    let packet = message(message::EXTENDED_DATA, |out| {
                        out.u32(ids[c].0);
                        out.u32(1);
                        out.string(vec![0; n]);
                    });
                    connection.handle_packet(time, packet, &mut out).unwrap();
                }
                Op::Read(c) => {
                    if let ReadResult::Data(bytes) = connection.read(ids[c], time, &mut out) {
                        let expect: Vec<u8> = peers[c].unread.drain(..bytes.len()).collect();
                        prop_assert_eq!(&bytes[..], &expect[..]);
                    } else {
                        prop_assert!(peers[c].unread.is_empty());
                    }
                }
                Op::Write(c, n) => {
                    let bytes: Vec<u8> = (0..n).map(|_| { byte = byte.wrapping_add(3); byte }).collect();
                    match connection.write(ids[c], &bytes, &mut out) {
                        Ok(n) => peers[c].written.extend(&bytes[..n]),
                        Err(WriteError::NoWindow) => {
                            let written = peers[c].written.len() as u64;
                            prop_assert!(written == peers[c].granted || written >= 256 * 1024);
                        }
                        Err(_) => prop_assert!(peers[c].eof),
                    }
                }
                Op::Adjust(c, n) => {
                    peers[c].granted += u64::from(n);
                    connection.handle_packet(time, adjust(ids[c].0, u32::from(n)), &mut out).unwrap();
                }
                Op::Eof(c) => {
                    peers[c].eof = true;
                    connection.send_eof(ids[c], &mut out);
                }
                Op::Wait(ms) => time += Duration::from_millis(u64::from(ms)),
            }
            while let Some(sent) = out.0.pop_front() {
                let mut body = Reader::new(&sent);
                let number = body.u8().unwrap();
                let peer = &mut peers[body.u32().unwrap() as usize];
                match number {
                    message::DATA => peer.arrived.extend(body.string().unwrap()),
                    message::WINDOW_ADJUST => peer.window += u64::from(body.u32().unwrap()),
                    message::EOF => {}
                    other => prop_assert!(false, "sent message {other}"),
                }
            }
            for peer in &peers {
                prop_assert!(peer.window + peer.unread.len() as u64 <= 400_000);
                prop_assert!(peer.written.len() as u64 <= peer.granted);
                prop_assert_eq!(&peer.arrived, &peer.written);
            }
        }
        // After the readers have caught up, every channel has its window again.
        for (id, peer) in ids.iter().zip(&mut peers) {
            while let ReadResult::Data(bytes) = connection.read(*id, time, &mut out) {
                peer.unread.drain(..bytes.len());
            }
            prop_assert!(peer.unread.is_empty());
        }
        let mut granted: HashMap<u32, u64> = HashMap::new();
        for sent in &out.0 {
            let mut body = Reader::new(&sent[1..]);
            let (remote, credit) = (body.u32().unwrap(), body.u32().unwrap());
            *granted.entry(remote).or_default() += u64::from(credit);
        }
        for (remote, peer) in peers.iter().enumerate() {
            let window = peer.window + granted.get(&(remote as u32)).copied().unwrap_or(0);
            prop_assert!(window >= 100_000 * 7 / 8, "window left at {window}");
        }
    }

    /// Arbitrary messages in any order cause no panic and no unbounded growth.
    #[test]
    fn arbitrary_messages_cause_no_panic(
        messages in proptest::collection::vec(
            (prop_oneof![80u8..=82, 90u8..=100, any::<u8>()], 0u32..4, proptest::collection::vec(any::<u8>(), 0..40), any::<u16>()),
            1..200,
        )
    ) {
        let mut connection = Connection::new(ConnectionConfig::default());
        let mut out = Sent::default();
        let mut time = now();
        connection.open_channel(&tcp(), now(), &mut out).unwrap();
        let id = connection.open_channel(&tcp(), now(), &mut out).unwrap();
        connection.handle_packet(time, confirmation(id.0, 1, 100, 32768), &mut out).unwrap();
        connection.request_forward(&listen(80), &mut out).unwrap();
        connection.handle_packet(time, Bytes::from_static(&[message::REQUEST_SUCCESS]), &mut out).unwrap();
        for (number, channel, rest, wait) in messages {
            time += Duration::from_millis(u64::from(wait));
            let packet = message(number, |out| { out.u32(channel); out.raw(&rest); });
            let before = connection.channel_count();
            if connection.handle_packet(time, packet, &mut out).is_err() {
                break;
            }
            prop_assert!(connection.channel_count() <= before + 1);
            while let Some(event) = connection.poll_event() {
                if let ConnectionEvent::Incoming(incoming) = event {
                    prop_assert_eq!(incoming.bound_port, 80);
                    connection.refuse_channel(incoming.channel, 2, "no", &mut out);
                }
            }
            let _ = connection.write(id, b"hello", &mut out);
            if number % 3 == 0 {
                let _ = connection.read(id, time, &mut out);
            }
        }
        connection.drop_reader(id, time, &mut out);
        connection.drop_writer(id, &mut out);
    }
}
