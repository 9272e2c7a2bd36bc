//! The transport against OpenSSH's sshd: each algorithm by itself, rekeys under traffic.

use std::time::Duration;

use tunneld_ssh::algorithm::Kind;
use tunneld_ssh::transport::{HostKey, Negotiated, TransportEvent};
use tunneld_ssh::{Config, Error};

use crate::client::Client;
use crate::sshd::{Keys, Sshd};

fn handshake(sshd: &Sshd, config: Config) -> (Client, Negotiated) {
    let mut client = Client::new(&sshd.stream, config);
    let negotiated = client.handshake().unwrap();
    // Packets pass in both directions under the new keys.
    client.request_userauth();
    (client, negotiated)
}

#[test]
fn every_key_exchange() {
    let Some(keys) = Keys::new() else { return };
    for kex in Kind::Kex.known() {
        // OpenSSH 9.2 has no ML-KEM: it is tested if the server has it.
        let config = Config {
            kex: vec![kex],
            ..Config::default()
        };
        let sshd = keys.start(&[]);
        let mut client = Client::new(&sshd.stream, config);
        match client.handshake() {
            Ok(negotiated) => {
                assert_eq!(negotiated.kex, kex);
                client.request_userauth();
            }
            Err(Error::NoCommonAlgorithm { theirs, .. }) if kex.starts_with("mlkem") => {
                eprintln!("SKIPPED: {kex} is not in {theirs}");
            }
            // A server without a common algorithm disconnects, and its reset may overtake its KEXINIT.
            Err(Error::Io(_) | Error::Eof) if kex.starts_with("mlkem") => {
                eprintln!("SKIPPED: {kex}: the server hung up");
            }
            Err(error) => panic!("{kex}: {error}"),
        }
    }
}

#[test]
fn every_cipher_and_mac() {
    let Some(keys) = Keys::new() else { return };
    for cipher in Kind::Cipher.known() {
        for mac in Kind::Mac.known() {
            let config = Config {
                kex: vec!["curve25519-sha256"],
                ciphers: vec![cipher],
                macs: vec![mac],
                ..Config::default()
            };
            let sshd = keys.start(&[]);
            let (client, negotiated) = handshake(&sshd, config);
            assert_eq!(negotiated.cipher_out, cipher);
            let aead = cipher.contains("gcm") || cipher.contains("poly1305");
            assert_eq!(negotiated.mac_in, (!aead).then_some(mac));
            assert!(negotiated.strict, "9.2p1-2+deb12u2 and later");
            drop((sshd, client));
            if aead {
                break;
            }
        }
    }
}

#[test]
fn every_host_key() {
    let Some(keys) = Keys::new() else { return };
    for host_key in Kind::HostKey.known() {
        if host_key.starts_with("sk-") {
            continue;
        }
        let config = Config {
            kex: vec!["curve25519-sha256"],
            host_keys: vec![host_key],
            ..Config::default()
        };
        let sshd = keys.start(&[]);
        let (client, negotiated) = handshake(&sshd, config);
        assert_eq!(negotiated.host_key, host_key);
        match client.host_key().unwrap() {
            HostKey::Plain(key) => {
                assert!(!host_key.contains("-cert-"));
                assert!(keys.has_host_key(key));
            }
            HostKey::Certificate(certificate) => {
                assert!(host_key.contains("-cert-"));
                assert!(keys.has_host_key(&certificate.key));
                assert_eq!(certificate.check_host("db.example", 1_700_000_000), Ok(()));
                assert_eq!(
                    certificate.check_host("x.lab.example", 1_700_000_000),
                    Ok(())
                );
                assert!(certificate.check_host("other", 1_700_000_000).is_err());
                assert!(certificate.check_host("db.example", 1).is_err());
                assert!(certificate.check_host("db.example", u64::MAX).is_err());
            }
        }
    }
}

#[test]
fn the_servers_signature_algorithms_are_reported() {
    let Some(keys) = Keys::new() else { return };
    let sshd = keys.start(&[]);
    let (mut client, _) = handshake(&sshd, Config::default());
    let algorithms = client.transport().server_sig_algs().unwrap();
    assert!(algorithms.iter().any(|name| name == "ssh-ed25519"));
}

#[test]
fn rekeys_from_either_side_while_requests_are_answered() {
    let Some(keys) = Keys::new() else { return };
    for (compression, server_limit) in [
        ("none", "default"),
        ("none", "1K"),
        ("zlib@openssh.com", "2K"),
    ] {
        let sshd = keys.start(&["-o", &format!("RekeyLimit {server_limit}")]);
        let config = Config {
            kex: vec!["curve25519-sha256"],
            compression: vec![compression],
            rekey_bytes: Some(4096),
            ..Config::default()
        };
        let (mut client, negotiated) = handshake(&sshd, config);
        assert_eq!(negotiated.compression_in, compression);
        client.authenticate(&keys.user_key());
        let mut rekeys = 0;
        for round in 0..400_usize {
            // The client limits rekeys of the server: without time passing this would be too many.
            client.advance_clock(Duration::from_secs(1));
            client.global_request(round);
            loop {
                match client.event().unwrap() {
                    TransportEvent::Rekeyed => rekeys += 1,
                    // REQUEST_FAILURE
                    TransportEvent::Packet(payload) if payload[0] == 82 => break,
                    // GLOBAL_REQUEST hostkeys-00
                    TransportEvent::Packet(payload) if payload[0] == 80 => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(rekeys >= 5, "{compression} {server_limit}: {rekeys} rekeys");
    }
}

#[test]
fn old_keys_are_replaced() {
    let Some(keys) = Keys::new() else { return };
    let sshd = keys.start(&[]);
    let config = Config {
        kex: vec!["curve25519-sha256"],
        rekey_time: Some(Duration::from_secs(3600)),
        ..Config::default()
    };
    let (mut client, _) = handshake(&sshd, config);
    client.authenticate(&keys.user_key());
    client.advance_clock(Duration::from_secs(3601));
    client.global_request(0);
    loop {
        if let TransportEvent::Rekeyed = client.event().unwrap() {
            break;
        }
    }
}

#[test]
fn a_rejected_host_key_ends_the_session() {
    let Some(keys) = Keys::new() else { return };
    let sshd = keys.start(&[]);
    let mut client = Client::new(&sshd.stream, Config::default());
    client.reject_host_key();
    assert!(client.handshake().is_err());
}
