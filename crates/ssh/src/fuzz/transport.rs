//! Fuzz targets of the transport.

use bytes::BytesMut;

use super::support;
use crate::config::Config;
use crate::transport::ident::IdentReader;
use crate::transport::{Negotiated, TransportEvent, negotiate};

/// An identification, at once and byte by byte: both must give the same result.
pub(super) fn ident(bytes: &[u8]) {
    let at_once = IdentReader::default().poll(&mut BytesMut::from(bytes));
    let (mut reader, mut buffer) = (IdentReader::default(), BytesMut::new());
    let mut found = None;
    for byte in bytes {
        buffer.extend_from_slice(&[*byte]);
        match reader.poll(&mut buffer) {
            Ok(None) => {}
            Ok(Some(ident)) => {
                found = Some(ident);
                break;
            }
            Err(_) => break,
        }
        assert!(buffer.len() <= 8 * 1024);
    }
    if let Ok(at_once) = at_once {
        assert_eq!(at_once, found);
    }
    assert!(reader.pre_banner().len() <= 1024);
}

/// A KEXINIT: only algorithms that we offer are negotiated.
pub(super) fn kexinit(bytes: &[u8]) {
    let config = Config::default();
    if let Ok(agreement) = negotiate::negotiate(&config, bytes, None) {
        let Negotiated { kex, host_key, .. } = agreement.negotiated;
        assert!(config.kex.contains(&kex) && config.host_keys.contains(&host_key));
    }
}

/// Payloads of an authenticated session: the output stays bounded.
pub(super) fn payloads(bytes: &[u8]) {
    let (mut client, now) = (support::client(), support::now());
    client.assume_authenticated(Negotiated {
        kex: "curve25519-sha256",
        host_key: "ssh-ed25519",
        cipher_out: "aes128-ctr",
        cipher_in: "aes128-ctr",
        mac_out: Some("hmac-sha2-256"),
        mac_in: Some("hmac-sha2-256"),
        compression_out: "none",
        compression_in: "none",
        strict: false,
    });
    for payload in support::payloads(bytes) {
        if client.handle_payload(payload).is_err() {
            break;
        }
        let _ = client.poll_timeout();
        let _ = client.handle_timeout(now);
        assert!(client.output().len() < 1 << 20);
    }
}

/// The first bytes of a server, at once and in parts: both must give events, or neither.
pub(super) fn stream(bytes: &[u8]) {
    let run = |chunk: usize| {
        let (mut client, now) = (support::client(), support::now());
        let mut events = Vec::new();
        for part in bytes.chunks(chunk) {
            client.read_buffer().extend_from_slice(part);
            loop {
                match client.poll_event(now) {
                    Ok(None) => break,
                    Ok(Some(TransportEvent::HostKey(_))) => client.accept_host_key(now),
                    Ok(Some(event)) => events.push(format!("{event:?}")),
                    Err(error) => {
                        events.push(format!("{error:?}"));
                        break;
                    }
                }
            }
            assert!(client.output().len() < 64 * 1024);
        }
        events
    };
    let at_once = run(bytes.len().max(1));
    let in_parts = run(7);
    // Not the same events: an error may be found before all of its line was received.
    assert_eq!(at_once.is_empty(), in_parts.is_empty());
}
