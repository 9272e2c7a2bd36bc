//! The transport against an in-memory server, correct and hostile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{HostKey, Transport, TransportEvent};
use crate::algorithm::Kind;
use crate::config::Config;
use crate::error::Error;
use crate::testing::server::{Server, ServerScript};

mod hostile;

pub(crate) fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn entropy() -> super::Entropy {
    Box::new(|bytes| aws_lc_rs::rand::fill(bytes).unwrap())
}

/// A client and a server, connected by hand, and their clock.
struct Pair {
    client: Transport,
    server: Server,
    now: Instant,
    events: Vec<TransportEvent>,
}

fn all_algorithms() -> Config {
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

    /// A pair with its first keys in use.
    fn ready(config: Config, script: ServerScript) -> Self {
        let mut pair = Self::new(config, script);
        pair.run().unwrap();
        assert!(matches!(pair.events.last(), Some(TransportEvent::Ready(_))));
        pair.events.clear();
        pair
    }

    /// A pair after USERAUTH_SUCCESS.
    fn authenticated(config: Config, script: ServerScript) -> Self {
        let mut pair = Self::ready(config, script);
        pair.server.send(&[52]);
        pair.run().unwrap();
        pair.events.clear();
        pair
    }

    /// Passes bytes in both directions until none are left. Accepts the host key.
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

    fn run_to_error(config: Config, script: ServerScript) -> Error {
        let mut pair = Self::new(config, script);
        let error = pair.run().unwrap_err();
        assert!(
            pair.client.poll_event(pair.now).unwrap().is_none(),
            "no event follows an error"
        );
        error
    }
}

#[test]
fn the_first_key_exchange_reports_ident_host_key_and_algorithms() {
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
                let mut pair = Pair::authenticated(all_algorithms(), script);
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
    assert_eq!(pair.client.poll_timeout(), None, "a user may take any time");
    pair.client.accept_host_key(pair.now);
    pair.run().unwrap();
    assert_eq!(pair.server.received.pop_front().unwrap(), [5][..]);
}

#[test]
fn a_rejected_host_key_sends_disconnect() {
    let mut pair = Pair::new(Config::default(), ServerScript::default());
    pair.client.reject_host_key();
    assert!(pair.client.poll_event(pair.now).unwrap().is_none());
    let length = pair.client.output().len();
    pair.client.send(&[5]);
    assert_eq!(
        pair.client.output().len(),
        length,
        "nothing follows the DISCONNECT"
    );
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
    // The server continues until it sees our KEXINIT.
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
fn both_sides_may_start_a_key_exchange_at_once() {
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
fn new_keys_are_due_by_bytes_and_by_age() {
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
fn no_configuration_exceeds_the_limits_of_a_cipher() {
    for (cipher, limit) in [
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
        // A configuration without a limit.
        let config = Config {
            rekey_bytes: Some(u64::MAX),
            ..all_algorithms()
        };
        let rekeys_after = |bytes, packets, inbound| {
            let mut pair = Pair::authenticated(config.clone(), script.clone());
            let client = &mut pair.client;
            let usage = match inbound {
                true => &mut client.reader.usage,
                false => &mut client.writer.usage,
            };
            (usage.bytes, usage.packets) = (bytes, packets);
            pair.client.handle_timeout(pair.now).unwrap();
            pair.run().unwrap();
            pair.server.exchanges - 1
        };
        for inbound in [false, true] {
            assert_eq!(
                rekeys_after(limit - 1, (1 << 31) - 1, inbound),
                0,
                "{cipher}"
            );
            assert_eq!(rekeys_after(limit, 1, inbound), 1, "{cipher}");
            assert_eq!(rekeys_after(1, 1 << 31, inbound), 1, "{cipher}");
        }
    }
}

#[test]
fn a_limit_of_zero_bytes_does_not_rekey_endlessly() {
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
fn a_server_that_rekeys_endlessly_is_disconnected() {
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
fn a_server_may_rekey_with_traffic_or_time() {
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
fn an_unanswered_key_exchange_times_out() {
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

    // In a rekey the server may send what it had queued, within a time limit.
    for (drip, expected) in [(1, 60..=90), (2000, 60..=90), (32_000, 150..=180)] {
        let mut pair = Pair::authenticated(Config::default(), ServerScript::default());
        let started = pair.now;
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
        let seconds = (ended - started).as_secs();
        assert!(expected.contains(&seconds), "{drip}: {seconds}");
    }
}
