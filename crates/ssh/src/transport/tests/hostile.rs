//! A hostile or broken server: damaged packets, messages out of order, floods, decompression bombs.

use std::sync::Arc;

use bytes::Buf;
use proptest::prelude::*;

use super::*;
use crate::wire::Writer;

#[test]
fn strict_key_exchange_refuses_other_messages() {
    let ignore = vec![2, 0, 0, 0, 0];
    let before = ServerScript {
        before_kexinit: vec![ignore.clone()],
        ..ServerScript::default()
    };
    assert!(matches!(
        Pair::run_to_error(Config::default(), before.clone()),
        Error::Protocol(_)
    ));
    for stray in [
        ignore.clone(),
        vec![4, 0],
        vec![3, 0, 0, 0, 0],
        vec![7, 0, 0, 0, 0],
    ] {
        let script = ServerScript {
            before_newkeys: vec![stray],
            ..ServerScript::default()
        };
        assert!(matches!(
            Pair::run_to_error(Config::default(), script),
            Error::Protocol(_)
        ));
    }
    // Without strict key exchange IGNORE is allowed, and nothing else.
    let lax = ServerScript {
        kex: "curve25519-sha256".to_owned(),
        before_newkeys: vec![ignore],
        ..before
    };
    Pair::ready(Config::default(), lax.clone());
    for stray in [vec![6], vec![94], vec![52], vec![80], vec![7, 0, 0, 0, 0]] {
        let script = ServerScript {
            before_newkeys: vec![stray],
            ..lax.clone()
        };
        assert!(matches!(
            Pair::run_to_error(Config::default(), script),
            Error::Protocol(_)
        ));
    }
}

#[test]
fn a_bad_key_exchange_is_refused() {
    let script = |change: fn(&mut ServerScript)| {
        let mut script = ServerScript::default();
        change(&mut script);
        script
    };
    for wrong in [
        script(|m| m.bad_signature = true),
        script(|m| m.public = Some(vec![0; 32])),
        script(|m| m.public = Some(vec![9; 31])),
        script(|m| m.public = Some(Vec::new())),
        script(|m| m.public = Some(vec![7; 32])),
    ] {
        let error = Pair::run_to_error(Config::default(), wrong);
        assert!(matches!(error, Error::KexFailed(_)), "{error:?}");
    }
    let nothing = ServerScript {
        kex: String::new(),
        ..ServerScript::default()
    };
    let error = Pair::run_to_error(Config::default(), nothing);
    assert!(matches!(error, Error::NoCommonAlgorithm { .. }));
    let many = ServerScript {
        host_key: vec!["x"; 50_000].join(","),
        ..ServerScript::default()
    };
    let error = Pair::run_to_error(Config::default(), many);
    assert!(matches!(&error, Error::NoCommonAlgorithm { theirs, .. } if theirs.len() <= 1024));
}

#[test]
fn another_host_key_in_a_rekey_is_refused() {
    let script = ServerScript {
        changes_host_key: true,
        ..ServerScript::default()
    };
    let mut pair = Pair::authenticated(Config::default(), script);
    pair.client.start_rekey(pair.now);
    assert!(matches!(pair.run(), Err(Error::KexFailed(_))));
}

#[test]
fn a_wrong_guess_is_skipped() {
    let script = ServerScript {
        kex: "ecdh-sha2-nistp256,curve25519-sha256".to_owned(),
        guess: true,
        ..ServerScript::default()
    };
    let mut pair = Pair::new(Config::default(), script);
    pair.server.send(&[31, 1, 2, 3]);
    pair.run().unwrap();
    assert!(matches!(pair.events.last(), Some(TransportEvent::Ready(_))));
}

#[test]
fn messages_out_of_order_end_the_session() {
    for payload in [&[21][..], &[31, 0], &[30], &[8], &[5, 0]] {
        let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
        pair.server.send(payload);
        let known = payload[0] == 8 || payload[0] == 5;
        assert_eq!(pair.run().is_ok(), known, "{payload:?}");
        if known {
            assert_eq!(
                pair.server.received.pop_front().unwrap()[0],
                3,
                "UNIMPLEMENTED"
            );
        }
    }
    let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
    pair.server.send_kexinit();
    pair.server.send(&[79]);
    assert!(matches!(pair.run(), Err(Error::Protocol(_))));
    let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
    pair.server.send_kexinit();
    pair.server.send_kexinit();
    assert!(matches!(pair.run(), Err(Error::Protocol(_))));
}

#[test]
fn floods_end_the_session() {
    let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
    let error = loop {
        pair.server.send(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        if let Err(error) = pair.run() {
            break error;
        }
    };
    assert!(matches!(error, Error::Protocol(_)));
    let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
    for _ in 0..3 {
        pair.server.send(&[7, 0, 0, 0, 0]);
    }
    assert!(matches!(pair.run(), Err(Error::Protocol(_))));
}

#[test]
fn a_disconnect_is_reported_as_the_last_event() {
    let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
    let mut payload = vec![1];
    payload.u32(11);
    payload.string(vec![0x1b; 256]);
    pair.server.send(&payload);
    pair.server.send(&[94]);
    pair.run().unwrap();
    assert!(
        matches!(&pair.events[..], [TransportEvent::Disconnected { code: 11, text }] if text.len() == 256)
    );
}

#[test]
fn a_damaged_packet_ends_the_session() {
    for cipher in Kind::Cipher.known() {
        let script = ServerScript {
            cipher,
            ..ServerScript::default()
        };
        for at in [0, 3, 4, 5, 20, 40, 60] {
            let mut pair = Pair::authenticated(all_algorithms(), script.clone());
            pair.server.send(&[94; 40]);
            let mut bytes = pair.server.output();
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 0x10;
            pair.server.send_raw(&bytes);
            // A damaged length may make the client wait for more bytes.
            pair.server.send_raw(&vec![0; 300_000]);
            assert!(pair.run().is_err(), "{cipher} at {at}");
            assert!(pair.events.is_empty());
        }
    }
}

#[test]
fn lengths_are_checked_before_bytes_are_buffered() {
    for length in [0_u32, 4, 5, 11, 13, 256 * 1024 + 4, 1 << 31, u32::MAX] {
        let mut client = Transport::new(Arc::new(Config::default()), start(), entropy());
        client.read_buffer().extend_from_slice(b"SSH-2.0-x\r\n");
        client
            .read_buffer()
            .extend_from_slice(&length.to_be_bytes());
        client.read_buffer().extend_from_slice(&[0; 64]);
        assert!(matches!(
            client.poll_event(start()),
            Ok(Some(TransportEvent::Ident(_)))
        ));
        assert!(client.poll_event(start()).is_err(), "{length}");
    }
}

#[test]
fn padding_must_fit() {
    for padding in [0_u8, 3, 12, 255] {
        let mut client = Transport::new(Arc::new(Config::default()), start(), entropy());
        client
            .read_buffer()
            .extend_from_slice(b"SSH-2.0-x\r\n\0\0\0\x0c");
        client.read_buffer().extend_from_slice(&[padding]);
        client.read_buffer().extend_from_slice(&[2; 64]);
        client.poll_event(start()).unwrap();
        assert!(
            matches!(client.poll_event(start()), Err(Error::Protocol(_))),
            "{padding}"
        );
    }
}

#[test]
fn a_compression_bomb_ends_the_session() {
    let script = ServerScript {
        compression: "zlib@openssh.com",
        ..ServerScript::default()
    };
    let mut pair = Pair::authenticated(all_algorithms(), script);
    let bomb = vec![94; 255 * 1024];
    pair.server.send(&bomb);
    pair.run().unwrap();
    assert_eq!(pair.events.len(), 1);
    // Twice the largest payload in one packet.
    pair.server.send(&vec![94; 600 * 1024]);
    assert!(matches!(pair.run(), Err(Error::Protocol(_))));
}

fn feed(bytes: &[u8], chunk: usize) -> usize {
    let mut client = Transport::new(Arc::new(Config::default()), start(), entropy());
    for part in bytes.chunks(chunk.max(1)) {
        client.read_buffer().extend_from_slice(part);
        while let Ok(Some(event)) = client.poll_event(start()) {
            if let TransportEvent::HostKey(_) = event {
                client.accept_host_key(start());
            }
        }
    }
    let output = client.output();
    let length = output.len();
    output.advance(length);
    length
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), chunk in 1usize..200) {
        prop_assert!(feed(&bytes, chunk) < 8192);
    }

    #[test]
    fn no_payloads_panic(payloads in proptest::collection::vec(
        (prop_oneof![Just(1u8), 1u8..10, 20u8..40, any::<u8>()], proptest::collection::vec(any::<u8>(), 0..80)),
        0..30,
    )) {
        let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
        for (number, mut rest) in payloads {
            rest.insert(0, number);
            pair.server.send(&rest);
            let bytes = pair.server.output();
            pair.client.read_buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = pair.client.poll_event(pair.now) {}
        }
        prop_assert!(pair.client.output().len() < 100_000);
    }

    #[test]
    fn damaged_handshakes_do_not_panic(at in 0usize..2000, byte: u8) {
        let mut pair = Pair::new(Config::default(), ServerScript::default());
        let mut sent = 0;
        for _ in 0..6 {
            let mut bytes = pair.server.output();
            if let Some(index) = at.checked_sub(sent)
                && let Some(there) = bytes.get_mut(index)
            {
                *there = byte;
            }
            sent += bytes.len();
            pair.client.read_buffer().extend_from_slice(&bytes);
            while let Ok(Some(event)) = pair.client.poll_event(pair.now) {
                if let TransportEvent::HostKey(_) = event {
                    pair.client.accept_host_key(pair.now);
                }
            }
            let _ = pair.client.output().split();
        }
    }
}
