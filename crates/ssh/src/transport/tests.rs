//! The transport against a server half in memory, well behaved and hostile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{HostKey, Transport, TransportEvent};
use crate::algorithm::Kind;
use crate::config::Config;
use crate::error::Error;
use crate::testing::server::{Server, ServerScript};

mod hostile;

/// Some time.
pub(crate) fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn entropy() -> super::Entropy {
    Box::new(|bytes| aws_lc_rs::rand::fill(bytes).unwrap())
}

/// A client and a server, and the time between them.
struct Pair {
    client: Transport,
    server: Server,
    now: Instant,
    events: Vec<TransportEvent>,
}

fn all() -> Config {
    Config {
        ciphers: Kind::Cipher.known().collect(),
        macs: Kind::Mac.known().collect(),
        compression: Kind::Compression.known().collect(),
        ..Config::default()
    }
}

impl Pair {
    fn new(config: Config, script: ServerScript) -> Self {
        let now = start();
        Self {
            client: Transport::new(Arc::new(config), now, entropy()),
            server: Server::new(script),
            now,
            events: Vec::new(),
        }
    }

    /// A pair whose first keys are in use.
    fn ready(config: Config, script: ServerScript) -> Self {
        let mut pair = Self::new(config, script);
        pair.run().unwrap();
        assert!(matches!(pair.events.last(), Some(TransportEvent::Ready(_))));
        pair.events.clear();
        pair
    }

    /// A pair that is logged in, as the transport sees it.
    fn authenticated(config: Config, script: ServerScript) -> Self {
        let mut pair = Self::ready(config, script);
        pair.server.send(&[52]);
        pair.run().unwrap();
        pair.events.clear();
        pair
    }

    /// Carries bytes both ways until nothing moves; accepts the host key.
    fn run(&mut self) -> Result<(), Error> {
        loop {
            let to_client = self.server.output();
            self.client.read_buffer().extend_from_slice(&to_client);
            while let Some(event) = self.client.poll_event(self.now)? {
                if let TransportEvent::HostKey(_) = event {
                    self.client.accept_host_key(self.now);
                }
                self.events.push(event);
            }
            let output = self.client.output();
            let to_server = output.split();
            self.server.receive(&to_server);
            if to_server.is_empty() && to_client.is_empty() {
                return Ok(());
            }
        }
    }

    fn fails(config: Config, script: ServerScript) -> Error {
        let mut pair = Self::new(config, script);
        let error = pair.run().unwrap_err();
        assert!(
            pair.client.poll_event(pair.now).unwrap().is_none(),
            "it is dead"
        );
        error
    }
}

#[test]
fn first_keys() {
    let pair = {
        let mut pair = Pair::new(Config::default(), ServerScript::default());
        pair.run().unwrap();
        pair
    };
    let [
        TransportEvent::Ident(ident),
        TransportEvent::HostKey(offer),
        TransportEvent::Ready(negotiated),
    ] = &pair.events[..]
    else {
        panic!("{:?}", pair.events);
    };
    assert_eq!(ident, "SSH-2.0-test");
    assert!(matches!(offer.key, HostKey::Plain(_)));
    assert!(negotiated.strict);
    assert_eq!(pair.client.session_id().len(), 32);
    assert!(!pair.client.is_rekeying());
}

#[test]
fn packets_pass_under_every_cipher_and_mac_with_and_without_compression() {
    for cipher in Kind::Cipher.known() {
        for mac in Kind::Mac.known() {
            for compression in Kind::Compression.known() {
                let script = ServerScript {
                    cipher,
                    mac,
                    compression,
                    ..ServerScript::default()
                };
                let mut pair = Pair::authenticated(all(), script);
                for size in [1, 2, 15, 16, 17, 1000, 32_768, 100_000] {
                    let payload = vec![94; size];
                    pair.client.send(&payload);
                    pair.server.send(&payload);
                    pair.run().unwrap();
                    assert_eq!(pair.server.received.pop_front().unwrap(), payload);
                    assert!(
                        matches!(pair.events.pop(), Some(TransportEvent::Packet(p)) if p == payload)
                    );
                }
            }
        }
    }
}

#[test]
fn nothing_is_sent_before_the_host_key_is_accepted() {
    let mut pair = Pair::new(Config::default(), ServerScript::default());
    pair.client.send(&[5]);
    let mut seen = false;
    for _ in 0..4 {
        let to_client = pair.server.output();
        pair.client.read_buffer().extend_from_slice(&to_client);
        while let Some(event) = pair.client.poll_event(pair.now).unwrap() {
            seen |= matches!(event, TransportEvent::HostKey(_));
        }
        let output = pair.client.output().split();
        pair.server.receive(&output);
    }
    assert!(seen && pair.server.received.is_empty() && pair.server.exchanges == 0);
    assert_eq!(
        pair.client.poll_timeout(),
        None,
        "a person may take their time"
    );
    pair.client.accept_host_key(pair.now);
    pair.run().unwrap();
    assert_eq!(pair.server.received.pop_front().unwrap(), [5][..]);
}

#[test]
fn a_rejected_host_key_says_goodbye() {
    let mut pair = Pair::new(Config::default(), ServerScript::default());
    pair.client.reject_host_key();
    assert!(pair.client.poll_event(pair.now).unwrap().is_none());
    let length = pair.client.output().len();
    pair.client.send(&[5]);
    assert_eq!(pair.client.output().len(), length, "nothing after it");
}

#[test]
fn payloads_in_a_rekey_are_held_and_keep_their_order() {
    let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
    pair.client.send(&[94, 0]);
    pair.client.start_rekey(pair.now);
    assert!(pair.client.is_rekeying());
    for number in 1..20 {
        pair.client.send_parts(&[94], &[number]);
    }
    // The server sends on until it sees our KEXINIT.
    pair.server.send(&[94, 7]);
    pair.run().unwrap();
    assert!(!pair.client.is_rekeying());
    let received: Vec<u8> = pair
        .server
        .received
        .iter()
        .map(|payload| payload[1])
        .collect();
    assert_eq!(received, (0..20).collect::<Vec<u8>>());
    assert!(matches!(
        &pair.events[..],
        [TransportEvent::Packet(_), TransportEvent::Rekeyed]
    ));
}

#[test]
fn both_sides_begin_at_once() {
    let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
    for round in 0..5 {
        pair.client.start_rekey(pair.now);
        pair.server.send_kexinit();
        pair.run().unwrap();
        assert_eq!(pair.server.exchanges, round + 2);
        pair.client.send(&[94]);
        pair.run().unwrap();
        assert!(pair.server.received.pop_front().is_some());
    }
}

#[test]
fn bytes_and_time_make_new_keys_due() {
    let config = Config {
        rekey_bytes: Some(10_000),
        rekey_time: Some(Duration::from_secs(60)),
        ..Config::default()
    };
    let mut pair = Pair::authenticated(config, ServerScript::default());
    pair.client.send(&vec![94; 11_000]);
    assert!(pair.client.poll_timeout().is_some_and(|at| at <= pair.now));
    pair.client.handle_timeout(pair.now).unwrap();
    pair.run().unwrap();
    assert!(matches!(pair.events.pop(), Some(TransportEvent::Rekeyed)));
    pair.server.send(&vec![94; 11_000]);
    pair.run().unwrap();
    assert!(matches!(pair.events.pop(), Some(TransportEvent::Rekeyed)));
    let due = pair.client.poll_timeout().unwrap();
    assert_eq!(due, pair.now + Duration::from_secs(60));
    pair.now = due;
    pair.client.handle_timeout(due).unwrap();
    pair.run().unwrap();
    assert!(matches!(pair.events.pop(), Some(TransportEvent::Rekeyed)));
}

#[test]
fn no_key_is_used_for_longer_than_is_safe() {
    for (cipher, most) in [
        ("aes128-gcm@openssh.com", 1 << 35),
        ("chacha20-poly1305@openssh.com", 1 << 35),
        ("aes256-ctr", 1 << 35),
        ("aes128-cbc", 1 << 35),
        ("3des-cbc", 1 << 30),
    ] {
        let script = ServerScript {
            cipher,
            ..ServerScript::default()
        };
        // However much the configuration allows.
        let config = Config {
            rekey_bytes: Some(u64::MAX),
            ..all()
        };
        let used = |bytes, packets, inward| {
            let mut pair = Pair::authenticated(config.clone(), script.clone());
            let client = &mut pair.client;
            let usage = match inward {
                true => &mut client.reader.usage,
                false => &mut client.writer.usage,
            };
            (usage.bytes, usage.packets) = (bytes, packets);
            pair.client.handle_timeout(pair.now).unwrap();
            pair.run().unwrap();
            pair.server.exchanges - 1
        };
        for inward in [false, true] {
            assert_eq!(used(most - 1, (1 << 31) - 1, inward), 0, "{cipher}");
            assert_eq!(used(most, 1, inward), 1, "{cipher}");
            assert_eq!(used(1, 1 << 31, inward), 1, "{cipher}");
        }
    }
}

#[test]
fn a_limit_of_nothing_does_not_rekey_for_ever() {
    let config = Config {
        rekey_bytes: Some(0),
        ..Config::default()
    };
    let mut pair = Pair::authenticated(config, ServerScript::default());
    pair.client.send(&[94; 2000]);
    pair.run().unwrap();
    pair.client.handle_timeout(pair.now).unwrap();
    pair.run().unwrap();
    assert_eq!(pair.server.exchanges, 2);
    assert_eq!(pair.client.poll_timeout(), None);
}

#[test]
fn no_new_keys_before_authentication() {
    let config = Config {
        rekey_bytes: Some(100),
        ..Config::default()
    };
    let mut pair = Pair::ready(config, ServerScript::default());
    pair.client.send(&vec![50; 1000]);
    pair.run().unwrap();
    assert_eq!(pair.client.poll_timeout(), None);
    assert_eq!(pair.server.exchanges, 1);
}

#[test]
fn a_server_that_rekeys_without_end_is_left() {
    let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
    let mut rekeys = 0;
    let error = loop {
        pair.server.send_kexinit();
        match pair.run() {
            Ok(()) => rekeys += 1,
            Err(error) => break error,
        }
        assert!(rekeys < 100);
    };
    assert!(matches!(error, Error::Protocol(_)) && rekeys >= 10);
}

#[test]
fn a_server_that_rekeys_as_traffic_or_time_goes_is_not() {
    let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
    for round in 0..100 {
        if round % 2 == 0 {
            pair.now += Duration::from_secs(1);
        } else {
            for _ in 0..10 {
                pair.server.send(&vec![94; 32_768]);
            }
        }
        pair.server.send_kexinit();
        pair.run().unwrap();
    }
    assert_eq!(pair.server.exchanges, 101);
}

#[test]
fn an_exchange_that_is_never_answered_times_out() {
    let silent = ServerScript {
        answers: false,
        ..ServerScript::default()
    };
    let mut pair = Pair::new(Config::default(), silent);
    pair.run().unwrap();
    let at = pair.client.poll_timeout().unwrap();
    pair.client
        .handle_timeout(at - Duration::from_millis(1))
        .unwrap();
    let error = pair.client.handle_timeout(at).unwrap_err();
    assert!(matches!(error, Error::Timeout(_)));

    // In a rekey the server may send on what was under way, but not for ever.
    for (drip, lasts) in [(1, 60..=90), (2000, 60..=90), (32_000, 150..=180)] {
        let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
        let begun = pair.now;
        pair.client.start_rekey(pair.now);
        let ended = loop {
            let _ = pair.client.output().split();
            for _ in 0..30 {
                pair.server.send(&vec![94; drip]);
            }
            let bytes = pair.server.output();
            pair.client.read_buffer().extend_from_slice(&bytes);
            while pair.client.poll_event(pair.now).unwrap().is_some() {}
            pair.now += Duration::from_secs(30);
            if pair.client.handle_timeout(pair.now).is_err() {
                break pair.now;
            }
        };
        let lasted = (ended - begun).as_secs();
        assert!(lasts.contains(&lasted), "{drip}: {lasted}");
    }
}
