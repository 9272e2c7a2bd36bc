//! The transport against russh's server, which has ML-KEM; OpenSSH 9.2 has not.

use std::borrow::Cow;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use ::russh::keys::{Algorithm, PrivateKey};
use ::russh::server::{self, Auth, Handler};
use ::russh::{Preferred, cipher, kex, mac};
use tunneld_ssh::Config;
use tunneld_ssh::algorithm::Kind;
use tunneld_ssh::transport::TransportEvent;
use tunneld_ssh::wire::Writer;

use crate::client::Client;

/// Accepts every user.
struct AcceptAll;

impl Handler for AcceptAll {
    type Error = ::russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }
}

/// Runs a server on its own thread until the returned end of the socket pair is closed.
fn serve() -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    theirs.set_nonblocking(true).unwrap();
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
    let config = server::Config {
        keys: vec![key],
        auth_rejection_time: Duration::ZERO,
        preferred: Preferred {
            kex: Cow::Borrowed(&[
                kex::MLKEM768X25519_SHA256,
                kex::CURVE25519,
                kex::ECDH_SHA2_NISTP256,
                kex::ECDH_SHA2_NISTP384,
                kex::ECDH_SHA2_NISTP521,
                kex::DH_G14_SHA256,
                kex::DH_G16_SHA512,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
            ]),
            cipher: Cow::Borrowed(&[
                cipher::AES_128_GCM,
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_128_CTR,
                cipher::AES_192_CTR,
                cipher::AES_256_CTR,
            ]),
            mac: Cow::Borrowed(&[
                mac::HMAC_SHA256_ETM,
                mac::HMAC_SHA512_ETM,
                mac::HMAC_SHA256,
                mac::HMAC_SHA512,
            ]),
            ..Preferred::default()
        },
        ..server::Config::default()
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async move {
            let stream = tokio::net::UnixStream::from_std(theirs).unwrap();
            if let Ok(session) = server::run_stream(Arc::new(config), stream, AcceptAll).await {
                let _ = session.await;
            }
        });
    });
    ours
}

/// Exchanges keys, authenticates, and rekeys twice with packets in between.
fn run_session(config: Config) {
    let stream = serve();
    let mut client = Client::new(&stream, config);
    client.handshake().unwrap();
    client.request_userauth();
    let mut login = vec![50];
    for text in ["me", "ssh-connection", "none"] {
        login.string(text);
    }
    client.transport().send(&login);
    let TransportEvent::Packet(payload) = client.event().unwrap() else {
        panic!("no answer");
    };
    assert_eq!(payload[0], 52);
    for _ in 0..2 {
        client.start_rekey();
        client.global_request(1000);
        let mut seen = (false, false);
        while seen != (true, true) {
            match client.event().unwrap() {
                TransportEvent::Rekeyed => seen.0 = true,
                TransportEvent::Packet(payload) if payload[0] == 82 => seen.1 = true,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn ml_kem_and_the_other_key_exchanges() {
    for kex in [
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521",
        "diffie-hellman-group14-sha256",
        "diffie-hellman-group16-sha512",
    ] {
        run_session(Config {
            kex: vec![kex],
            ..Config::default()
        });
    }
}

#[test]
fn every_cipher_and_mac() {
    for cipher in Kind::Cipher.defaults() {
        for mac in Kind::Mac.defaults() {
            run_session(Config {
                ciphers: vec![cipher],
                macs: vec![mac],
                ..Config::default()
            });
        }
    }
}
