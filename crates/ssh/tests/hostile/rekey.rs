//! Attacks on rekeying (RFC 4253 §9).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;
use tunneld_ssh::client::Options;
use tunneld_ssh::connection::RemoteListen;
use tunneld_ssh::wire::Writer;
use tunneld_ssh::{Config, Error};

use crate::peer::*;
use crate::play::*;

#[tokio::test(start_paused = true)]
async fn a_rekey_with_each_packet_ends_the_session() {
    let end = attack(When::Session, async |server| {
        server.answers_keepalives = false;
        for done in 0..100 {
            server.send_kexinit(&Offer::default()).await;
            let Some(theirs) = server.next().await.filter(|payload| payload[0] == KEXINIT) else {
                assert!((16..=17).contains(&done), "{done}");
                return;
            };
            server.peer.client_kexinit = theirs;
            server.finish_exchange().await;
        }
        panic!("a hundred times new keys at once");
    })
    .await;
    end.says("it starts key exchanges too often");
}

/// Time and traffic allow more rekeys: an honest server stays far below the limit.
#[tokio::test(start_paused = true)]
async fn a_rekey_each_second_is_allowed() {
    let script = async |server: &mut Server| {
        let id = server.confirm_open(1 << 20, 32768).await;
        for n in 0..100 {
            server.send(&data(id, &[n])).await;
            server.exchange(&Offer::default()).await;
            sleep(Duration::from_secs(1)).await;
        }
        server.send(&for_channel(EOF, id)).await;
        let written = server.expect(DATA).await;
        assert_eq!(&written[9..], b"still here");
    };
    play(script, async |session, _incoming| {
        let mut channel = open(&session).await.unwrap();
        let mut read = Vec::new();
        channel.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, (0..100).collect::<Vec<u8>>());
        channel.write_all(b"still here").await.unwrap();
        sleep(Duration::from_secs(1)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_host_key_ends_the_session() {
    let end = attack(When::Session, async |server| {
        server.send_kexinit(&Offer::default()).await;
        server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
        let other = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[8; 32]);
        server.peer.key = other.unwrap();
        let init = server.expect_keeping_others(KEX_INIT).await;
        let (reply, _keys) = server.peer.reply(&init);
        server.send(&reply).await;
    })
    .await;
    end.says("the host key has changed");
}

#[tokio::test(start_paused = true)]
async fn weaker_algorithms_are_refused_in_a_rekey_too() {
    let end = attack(When::Session, async |server| {
        let offer = Offer {
            ciphers: "none,3des-cbc".into(),
            ..Offer::default()
        };
        server.send_kexinit(&offer).await;
    })
    .await;
    end.says("no common cipher");
}

/// The marker of strict key exchange counts in the first key exchange only; later ones need not have it.
#[tokio::test(start_paused = true)]
async fn strict_stays_in_force_without_the_marker() {
    let script = async |server: &mut Server| {
        server.exchange(&Offer::without_strict()).await;
        let id = server.confirm_open(0, 32768).await;
        server.send(&data(id, b"x")).await;
    };
    play(script, async |session, _incoming| {
        let mut channel = open(&session).await.unwrap();
        assert_eq!(channel.read_u8().await.unwrap(), b'x');
    })
    .await;
}

/// RFC 4253 §7.1 forbids it, but asyncssh does it.
#[tokio::test(start_paused = true)]
async fn channel_data_during_a_key_exchange_is_delivered_in_order() {
    let script = async |server: &mut Server| {
        let id = server.confirm_open(1 << 20, 32768).await;
        for round in 0..10 {
            server.send(&data(id, &[round, 0])).await;
            server.send_kexinit(&Offer::default()).await;
            server.send(&data(id, &[round, 1])).await;
            server.send(&global("x", true, b"")).await;
            server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
            let init = server.expect_keeping_others(KEX_INIT).await;
            server.send(&data(id, &[round, 2])).await;
            let (reply, keys) = server.peer.reply(&init);
            server.send(&reply).await;
            // The client has put its new keys in use already.
            server.expect_keeping_others(NEWKEYS).await;
            server.send(&data(id, &[round, 3])).await;
            server.send(&[NEWKEYS]).await;
            let later = server.peer.rekey_out(keys);
            server.peer.rekey_in(later);
            server.send(&data(id, &[round, 4])).await;
            server.expect(REQUEST_FAILURE).await;
            sleep(Duration::from_secs(1)).await;
        }
        server.send(&for_channel(EOF, id)).await;
        let written = server.expect(DATA).await;
        assert_eq!(&written[9..], b"still here");
    };
    play(script, async |session, _incoming| {
        let mut channel = open(&session).await.unwrap();
        let mut read = Vec::new();
        channel.read_to_end(&mut read).await.unwrap();
        let sent = (0..10).flat_map(|round| (0..5).flat_map(move |n| [round, n]));
        assert_eq!(read, sent.collect::<Vec<u8>>());
        channel.write_all(b"still here").await.unwrap();
        sleep(Duration::from_secs(1)).await;
    })
    .await;
}

/// The server can only use the windows that it has: the client sends no credit before the new keys.
#[tokio::test(start_paused = true)]
async fn data_does_not_extend_a_key_exchange_endlessly() {
    let script = async |server: &mut Server| {
        let id = server.confirm_open(0, 32768).await;
        server.send_kexinit(&Offer::default()).await;
        while server.send(&data(id, &[7; 1000])).await {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let start = tokio::time::Instant::now();
    let error = play(script, async |session, _incoming| {
        let mut channel = open(&session).await.unwrap();
        let mut read = Vec::new();
        assert!(channel.read_to_end(&mut read).await.is_err());
        session.closed().await
    })
    .await;
    assert!(
        matches!(error, Error::Timeout("the key exchange")),
        "{error}"
    );
    let lasted = start.elapsed().as_secs();
    assert!((60..=70).contains(&lasted), "{lasted} s");
}

#[tokio::test(start_paused = true)]
async fn other_messages_during_a_key_exchange_end_the_session() {
    for payload in [
        vec![SERVICE_REQUEST, 0, 0, 0, 0],
        message(SERVICE_ACCEPT, |out| out.string("ssh-userauth")),
        vec![SUCCESS],
        vec![60],
        vec![79],
        vec![EXT_INFO, 0, 0, 0, 0],
        vec![10],
    ] {
        let end = attack(When::Session, async |server| {
            server.send_kexinit(&Offer::default()).await;
            server.send(&payload).await;
        })
        .await;
        end.says("a message in the middle of a key exchange");
    }
}

#[tokio::test(start_paused = true)]
async fn channel_messages_during_a_key_exchange_before_the_login_end_the_session() {
    for when in [When::Kex, When::Auth] {
        let end = attack(when, async |server| {
            server.send_kexinit(&Offer::without_strict()).await;
            server.send(&data(0, b"x")).await;
        })
        .await;
        end.says("a message in the middle of a key exchange");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_out_of_order_end_the_session() {
    for messages in [
        vec![vec![NEWKEYS]],
        vec![vec![KEX_REPLY]],
        vec![vec![KEX_INIT]],
        vec![Offer::default().payload(), Offer::default().payload()],
        vec![Offer::default().payload(), vec![NEWKEYS]],
    ] {
        let end = attack(When::Session, async |server| {
            for message in &messages {
                server.send(message).await;
            }
        })
        .await;
        assert!(
            matches!(end.error, Error::Protocol(_) | Error::KexFailed(_)),
            "{messages:?}: {end:?}"
        );
    }
}

/// UNIMPLEMENTED for a key exchange message ends the session; for an earlier message it does not.
#[tokio::test(start_paused = true)]
async fn an_unimplemented_key_exchange_ends_the_session() {
    let end = attack(When::Session, async |server| {
        server.send_kexinit(&Offer::default()).await;
        server.send(&[UNIMPLEMENTED, 0, 0, 0, 0]).await;
        server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
        server.send(&[UNIMPLEMENTED, 0, 0, 0, 0]).await;
        server.finish_exchange().await;
        server.send_kexinit(&Offer::default()).await;
        server.expect_keeping_others(KEXINIT).await;
        server.unimplemented().await;
    })
    .await;
    end.says("the server does not implement it");
}

/// Replies are held back while the client waits for the server's KEXINIT, and they are bounded.
#[tokio::test(start_paused = true)]
async fn replies_held_back_for_new_keys_are_bounded() {
    let config = Config {
        rekey_time: Some(Duration::from_secs(5)),
        ..Config::default()
    };
    let listen = RemoteListen::Tcp {
        address: "localhost".into(),
        port: 8080,
    };
    let script = async |server: &mut Server| {
        server.expect(GLOBAL_REQUEST).await;
        server.send(&[REQUEST_SUCCESS]).await;
        server.expect_keeping_others(KEXINIT).await;
        let open = message(OPEN, |out| {
            out.string("forwarded-tcpip");
            out.u32(1);
            out.u32(1);
            out.u32(32768);
            out.string("localhost");
            out.u32(8080);
            out.string("");
            out.u32(1);
        });
        let taken = server.flood(&open, 1_000_000).await;
        assert!(taken < 200_000, "{taken}");
    };
    let options = Options::default();
    let error = play_with(config, options, script, async |session, _incoming| {
        session.request_forward(&listen).await.unwrap();
        session.closed().await
    })
    .await;
    assert!(error.to_string().contains("does not read them"), "{error}");
}
