//! Attacks on the key exchange and the host key (RFC 4253 §8, RFC 4419, RFC 8731).

use std::sync::Arc;
use std::time::Duration;

use tunneld_ssh::client::{Options, Stream, handshake};
use tunneld_ssh::wire::Writer;
use tunneld_ssh::{Config, Error};

use crate::peer::*;
use crate::play::*;

/// Offers one method and answers the client's first message with `reply`.
async fn answer_kex(kex: &str, reply: impl AsyncFnOnce(&mut Server)) -> End {
    let offer = Offer {
        kex: kex.into(),
        ..Offer::default()
    };
    let end = attack(When::Kex, async |server| {
        server.send_kexinit(&offer).await;
        server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
        reply(server).await;
    })
    .await;
    assert!(
        matches!(end.error, Error::KexFailed(_) | Error::Protocol(_)),
        "{end:?}"
    );
    assert_eq!(end.reached, When::Kex);
    end.before_login();
    end
}

/// A reply with this public value, a correct host key and a wrong signature.
fn reply(server: &Server, public: &[u8]) -> Vec<u8> {
    message(KEX_REPLY, |out| {
        out.string(server.peer.host_key());
        out.string(public);
        out.string(server.peer.sign(b"anything"));
    })
}

#[tokio::test(start_paused = true)]
async fn zero_short_and_long_public_values_are_refused() {
    for (kex, whole) in [
        ("curve25519-sha256", 32),
        ("curve25519-sha256@libssh.org", 32),
        ("mlkem768x25519-sha256", 1120),
        ("ecdh-sha2-nistp256", 65),
        ("ecdh-sha2-nistp384", 97),
        ("ecdh-sha2-nistp521", 133),
    ] {
        for length in [0, 1, whole - 1, whole, whole + 1, 200_000] {
            let end = answer_kex(kex, async |server| {
                let reply = reply(server, &vec![0; length]);
                server.send(&reply).await;
            })
            .await;
            end.says("key exchange failed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn weak_public_values_of_fixed_groups_are_refused() {
    for kex in [
        "diffie-hellman-group14-sha256",
        "diffie-hellman-group16-sha512",
    ] {
        for public in [&[][..], &[1], &[0xff; 700]] {
            let end = answer_kex(kex, async |server| {
                let mut value = Vec::new();
                value.mpint(public);
                let reply = message(KEX_REPLY, |out| {
                    out.string(server.peer.host_key());
                    out.raw(&value);
                    out.string(server.peer.sign(b"anything"));
                });
                server.send(&reply).await;
            })
            .await;
            end.says("the server's public key is not a valid one");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn groups_of_512_and_16384_bits_are_refused() {
    for (bits, fill) in [
        (512, 0xff),
        (1024, 0xff),
        (2047, 0x7f),
        (8200, 0xff),
        (16384, 0xff),
    ] {
        let end = answer_kex("diffie-hellman-group-exchange-sha256", async |server| {
            let mut prime = vec![0xff; bits / 8 + usize::from(bits % 8 != 0)];
            prime[0] = fill;
            let group = message(KEX_REPLY, |out| {
                out.mpint(&prime);
                out.mpint(&[2]);
            });
            server.send(&group).await;
        })
        .await;
        end.says("the server offers a group of");
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_groups_are_refused() {
    let odd = vec![0xff; 256];
    let even = [&odd[1..], &[0xfe]].concat();
    for (prime, generator) in [
        (&odd, vec![0]),
        (&odd, vec![1]),
        (&odd, odd.clone()),
        (&odd, even.clone()),
        (&even, vec![2]),
    ] {
        let end = answer_kex("diffie-hellman-group-exchange-sha256", async |server| {
            let group = message(KEX_REPLY, |out| {
                out.mpint(prime);
                out.mpint(&generator);
            });
            server.send(&group).await;
        })
        .await;
        end.says("the server's group is not a valid one");
    }
}

/// Runs a correct key exchange, with a reply that `tamper` makes of the correct one.
async fn tampered(tamper: impl FnOnce(&Peer, Vec<u8>, Vec<u8>) -> Vec<u8>) -> End {
    answer_kex("curve25519-sha256", async |server| {
        let init = server.expect_keeping_others(KEX_INIT).await;
        let (reply, _keys) = server.peer.reply(&init);
        let mut fields = tunneld_ssh::wire::Reader::new(&reply[1..]);
        fields.string().unwrap();
        let public = fields.string().unwrap().to_vec();
        let signature = fields.string().unwrap().to_vec();
        let reply = tamper(&server.peer, public, signature);
        server.send(&reply).await;
    })
    .await
}

fn assemble(key: &[u8], public: &[u8], signature: &[u8]) -> Vec<u8> {
    message(KEX_REPLY, |out| {
        out.string(key);
        out.string(public);
        out.string(signature);
    })
}

#[tokio::test(start_paused = true)]
async fn a_bad_signature_is_refused() {
    tampered(|peer, public, mut signature| {
        *signature.last_mut().unwrap() ^= 1;
        assemble(&peer.host_key(), &public, &signature)
    })
    .await
    .says("the signature is wrong");
    // Over something else than the exchange hash.
    tampered(|peer, public, _| assemble(&peer.host_key(), &public, &peer.sign(&[0; 32])))
        .await
        .says("the signature is wrong");
    // By another key than the presented one.
    tampered(|peer, public, signature| {
        let mut key = peer.host_key();
        *key.last_mut().unwrap() ^= 1;
        assemble(&key, &public, &signature)
    })
    .await
    .says("the signature is wrong");
}

#[tokio::test(start_paused = true)]
async fn malformed_keys_and_signatures_are_refused() {
    for key in [vec![], vec![0, 0, 0, 11], vec![0; 100], vec![0xff; 100_000]] {
        tampered(|_, public, signature| assemble(&key, &public, &signature))
            .await
            .says("key exchange failed");
    }
    for signature in [vec![], vec![0xff; 64], vec![0; 64]] {
        tampered(|peer, public, _| assemble(&peer.host_key(), &public, &signature))
            .await
            .says("key exchange failed");
    }
    // Well-formed, but of another type or algorithm than was negotiated.
    let mut rsa = Vec::new();
    rsa.string("ssh-rsa");
    rsa.mpint(&[1, 0, 1]);
    rsa.mpint(&[0xff; 64]);
    tampered(|_, public, signature| assemble(&rsa, &public, &signature))
        .await
        .says("the key is of the type \"ssh-rsa\"");
    let mut other = Vec::new();
    other.string("rsa-sha2-256");
    other.string([0; 64]);
    tampered(|peer, public, _| assemble(&peer.host_key(), &public, &other))
        .await
        .says("the signature is of the algorithm \"rsa-sha2-256\"");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_host_key_ends_the_session_before_any_login() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut server = Server::new(theirs);
    let scene = async {
        server.identify().await;
        server.send_kexinit(&Offer::default()).await;
        server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
        let init = server.expect_keeping_others(KEX_INIT).await;
        let (reply, _keys) = server.peer.reply(&init);
        server.send(&reply).await;
        server.until_disconnect().await
    };
    let config = Arc::new(Config::default());
    let client = handshake(
        Stream::other(ours),
        config,
        Options::default(),
        "user",
        |_| std::future::ready(false),
    );
    let (refused, disconnect) = tokio::join!(client, scene);
    assert!(matches!(refused, Err(Error::HostKeyRejected)));
    assert_eq!(disconnect.as_deref(), Some("9 host key not accepted"));
    assert_eq!(server.seen, [KEXINIT, KEX_INIT, DISCONNECT]);
}

/// A user may take long to check a new host key; what the server sends meanwhile is bounded.
#[tokio::test(start_paused = true)]
async fn input_is_bounded_while_a_user_checks_the_host_key() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut server = Server::new(theirs);
    let scene = async {
        server.identify().await;
        server.send_kexinit(&Offer::default()).await;
        server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
        let init = server.expect_keeping_others(KEX_INIT).await;
        let (reply, _keys) = server.peer.reply(&init);
        server.send(&reply).await;
        let mut taken = 0;
        let block = vec![0x55; 64 * 1024];
        while taken < 64 << 20
            && let Ok(true) =
                tokio::time::timeout(Duration::from_secs(60), server.raw(&block)).await
        {
            taken += block.len();
        }
        taken
    };
    let config = Arc::new(Config::default());
    let client = handshake(
        Stream::other(ours),
        config,
        Options::default(),
        "user",
        |_| async {
            tokio::time::sleep(Duration::from_secs(600)).await;
            true
        },
    );
    let start = tokio::time::Instant::now();
    let client = async { (client.await, start.elapsed()) };
    let ((connected, lasted), taken) = tokio::join!(client, scene);
    assert!(matches!(connected, Err(Error::Protocol(_))));
    assert_eq!(lasted, Duration::ZERO, "the person was waited for");
    assert!(taken < 1 << 20, "{taken} bytes were taken in");
}

/// The user is not asked about the host key of a server that has disconnected.
#[tokio::test(start_paused = true)]
async fn a_disconnect_cancels_the_host_key_check() {
    for disconnect in [false, true] {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let scene = async {
            let mut server = Server::new(theirs);
            server.identify().await;
            server.send_kexinit(&Offer::default()).await;
            server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
            let init = server.expect_keeping_others(KEX_INIT).await;
            let (reply, _keys) = server.peer.reply(&init);
            server.send(&reply).await;
            tokio::time::sleep(Duration::from_secs(100)).await;
            if disconnect {
                server
                    .send(&[
                        DISCONNECT, 0, 0, 0, 2, 0, 0, 0, 3, b'b', b'y', b'e', 0, 0, 0, 0,
                    ])
                    .await;
            }
        };
        let config = Arc::new(Config::default());
        let start = tokio::time::Instant::now();
        let client = async {
            let stream = Stream::other(ours);
            let judge = |_| std::future::pending();
            let end = handshake(stream, config, Options::default(), "user", judge).await;
            (end.err(), start.elapsed())
        };
        let ((end, lasted), ()) = tokio::join!(client, scene);
        assert!(matches!(end, Some(Error::Eof)), "{end:?}");
        assert_eq!(lasted, Duration::from_secs(100));
    }
}

#[tokio::test(start_paused = true)]
async fn newkeys_with_a_body_are_refused() {
    let end = attack(When::Kex, async |server| {
        server.send_kexinit(&Offer::default()).await;
        server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
        let init = server.expect_keeping_others(KEX_INIT).await;
        let (reply, _keys) = server.peer.reply(&init);
        server.send(&reply).await;
        server.send(&[NEWKEYS, 0]).await;
        server.peer.ignores_input = true;
    })
    .await;
    end.says("a malformed NEWKEYS").before_login();
}
