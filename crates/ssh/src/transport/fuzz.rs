//! The transport's parts, as the fuzzers call them.

use bytes::BytesMut;

use super::ident::IdentReader;
use super::{Negotiated, negotiate};
use crate::config::Config;
use crate::fuzz;

/// An identification, whole and byte by byte: both must find the same.
pub(crate) fn ident(bytes: &[u8]) {
    let whole = IdentReader::default().poll(&mut BytesMut::from(bytes));
    let (mut reader, mut read) = (IdentReader::default(), BytesMut::new());
    let mut found = None;
    for byte in bytes {
        read.extend_from_slice(&[*byte]);
        match reader.poll(&mut read) {
            Ok(None) => {}
            Ok(Some(ident)) => {
                found = Some(ident);
                break;
            }
            Err(_) => break,
        }
        assert!(read.len() <= 8 * 1024);
    }
    if let Ok(whole) = whole {
        assert_eq!(whole, found);
    }
    assert!(reader.pre_banner().len() <= 1024);
}

/// A KEXINIT.
pub(crate) fn kexinit(bytes: &[u8]) {
    let config = Config::default();
    if let Ok(agreement) = negotiate::agree(&config, bytes, None) {
        let Negotiated { kex, host_key, .. } = agreement.negotiated;
        assert!(config.kex.contains(&kex) && config.host_keys.contains(&host_key));
    }
}

/// Payloads of a session whose first keys are in use and who is logged in.
pub(crate) fn payloads(bytes: &[u8]) {
    let (mut client, now) = (fuzz::client(), fuzz::now());
    client.their_ident = Some("SSH-2.0-fuzz".to_owned());
    client.exchange = None;
    client.strict = Some(false);
    client.session_id = vec![7; 32];
    client.authenticated = true;
    client.negotiated = Some(Negotiated {
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
    for payload in fuzz::payloads(bytes) {
        if client.on_payload(payload).is_err() {
            break;
        }
        let _ = client.poll_timeout();
        let _ = client.handle_timeout(now);
        assert!(client.output().len() < 1 << 20);
    }
}
