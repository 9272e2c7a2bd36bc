//! New keys in a standing session: RFC 4253 §9.

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
async fn new_keys_with_each_packet_end_it() {
    let end = attack(When::Session, async |server| {
        server.polite = false;
        for done in 0..100 {
            server.init(&Offer::default()).await;
            let Some(theirs) = server.next().await.filter(|payload| payload[0] == KEXINIT) else {
                assert!((16..=17).contains(&done), "{done}");
                return;
            };
            server.peer.theirs = theirs;
            server.finish_exchange().await;
        }
        panic!("a hundred times new keys at once");
    })
    .await;
    end.says("it starts key exchanges too often");
}

/// What pays for new keys is time or traffic: an honest server is never near the bound.
#[tokio::test(start_paused = true)]
async fn new_keys_each_second_are_borne() {
    let script = async |server: &mut Server| {
        let id = server.confirm(1 << 20, 32768).await;
        for n in 0..100 {
            server.send(&data(id, &[n])).await;
            server.exchange(&Offer::default()).await;
            sleep(Duration::from_secs(1)).await;
        }
        server.send(&of(EOF, id)).await;
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
async fn another_host_key_ends_it() {
    let end = attack(When::Session, async |server| {
        server.init(&Offer::default()).await;
        server.peer.theirs = server.aside(KEXINIT).await;
        let other = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[8; 32]);
        server.peer.key = other.unwrap();
        let init = server.aside(KEX_INIT).await;
        let (reply, _keys) = server.peer.reply(&init);
        server.send(&reply).await;
    })
    .await;
    end.says("the host key has changed");
}

#[tokio::test(start_paused = true)]
async fn weaker_algorithms_later_are_refused_as_at_first() {
    let end = attack(When::Session, async |server| {
        let offer = Offer {
            ciphers: "none,3des-cbc".into(),
            ..Offer::default()
        };
        server.init(&offer).await;
    })
    .await;
    end.says("no common cipher");
}

/// The marker of strict key exchange counts in the first exchange only; that it is gone later is nothing.
#[tokio::test(start_paused = true)]
async fn strict_stays_in_force_without_its_marker() {
    let script = async |server: &mut Server| {
        server.exchange(&Offer::lax()).await;
        let id = server.confirm(0, 32768).await;
        server.send(&data(id, b"x")).await;
    };
    play(script, async |session, _incoming| {
        let mut channel = open(&session).await.unwrap();
        assert_eq!(channel.read_u8().await.unwrap(), b'x');
    })
    .await;
}

/// RFC 4253 §7.1 forbids it, and asyncssh does it.
#[tokio::test(start_paused = true)]
async fn data_in_the_middle_of_an_exchange_is_taken_in_order() {
    let script = async |server: &mut Server| {
        let id = server.confirm(1 << 20, 32768).await;
        for round in 0..10 {
            server.send(&data(id, &[round, 0])).await;
            server.init(&Offer::default()).await;
            server.send(&data(id, &[round, 1])).await;
            server.send(&global("x", true, b"")).await;
            server.peer.theirs = server.aside(KEXINIT).await;
            let init = server.aside(KEX_INIT).await;
            server.send(&data(id, &[round, 2])).await;
            let (reply, keys) = server.peer.reply(&init);
            server.send(&reply).await;
            // The client's new keys are in use already.
            server.aside(NEWKEYS).await;
            server.send(&data(id, &[round, 3])).await;
            server.send(&[NEWKEYS]).await;
            let later = server.peer.rekey_out(keys);
            server.peer.rekey_in(later);
            server.send(&data(id, &[round, 4])).await;
            server.expect(REQUEST_FAILURE).await;
            sleep(Duration::from_secs(1)).await;
        }
        server.send(&of(EOF, id)).await;
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

/// Of the old windows only: what the client consumes meanwhile gives no credit before the new keys.
#[tokio::test(start_paused = true)]
async fn an_exchange_is_not_prolonged_for_ever_by_data() {
    let script = async |server: &mut Server| {
        let id = server.confirm(0, 32768).await;
        server.init(&Offer::default()).await;
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
async fn what_is_not_of_a_channel_in_the_middle_of_an_exchange_ends_it() {
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
            server.init(&Offer::default()).await;
            server.send(&payload).await;
        })
        .await;
        end.says("a message in the middle of a key exchange");
    }
}

#[tokio::test(start_paused = true)]
async fn channels_in_the_middle_of_an_exchange_before_the_login_end_it() {
    for when in [When::Kex, When::Auth] {
        let end = attack(when, async |server| {
            server.init(&Offer::lax()).await;
            server.send(&data(0, b"x")).await;
        })
        .await;
        end.says("a message in the middle of a key exchange");
    }
}

#[tokio::test(start_paused = true)]
async fn out_of_turn_ends_it() {
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

/// That it does not know the exchange ends it; that it did not know what came before does not.
#[tokio::test(start_paused = true)]
async fn an_exchange_that_the_server_does_not_know_ends_it() {
    let end = attack(When::Session, async |server| {
        server.init(&Offer::default()).await;
        server.send(&[UNIMPLEMENTED, 0, 0, 0, 0]).await;
        server.peer.theirs = server.aside(KEXINIT).await;
        server.send(&[UNIMPLEMENTED, 0, 0, 0, 0]).await;
        server.finish_exchange().await;
        server.init(&Offer::default()).await;
        server.aside(KEXINIT).await;
        server.unimplemented().await;
    })
    .await;
    end.says("the server does not implement it");
}

/// What the client answers while it waits for the server's KEXINIT is held, and that is bounded.
#[tokio::test(start_paused = true)]
async fn answers_that_wait_for_new_keys_are_bounded() {
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
        server.aside(KEXINIT).await;
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
