//! A server that never answers: each wait has a time limit, and a timeout ends no more than it has to.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep};
use tunneld_ssh::client::{OpenError, Options, RequestError};
use tunneld_ssh::connection::RemoteListen;
use tunneld_ssh::{Config, Error};

use crate::peer::*;
use crate::play::*;

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_during_the_key_exchange_times_out_after_30_s() {
    for step in 0..3 {
        let end = attack(When::Kex, async |server| {
            if step > 0 {
                server.send_kexinit(&Offer::default()).await;
            }
            if step > 1 {
                server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
                let init = server.expect_keeping_others(KEX_INIT).await;
                let (reply, _keys) = server.peer.reply(&init);
                server.send(&reply).await;
                server.peer.ignores_input = true;
            }
        })
        .await;
        end.says("timed out").before_login();
        assert_eq!(end.after, Duration::from_secs(30), "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_is_dead_after_interval_times_count() {
    let end = attack(When::Session, async |server| {
        server.answers_keepalives = false
    })
    .await;
    assert!(matches!(end.error, Error::DeadPeer(_)), "{end:?}");
    assert_eq!(end.after, Duration::from_secs(45));
}

/// Some servers answer unknown requests with UNIMPLEMENTED, which shows that they are alive.
#[tokio::test(start_paused = true)]
async fn a_server_without_global_requests_stays_connected() {
    let script = async |server: &mut Server| server.without_global_requests = true;
    play(script, async |session, _incoming| {
        sleep(Duration::from_secs(600)).await;
        assert!(!session.is_closed());
        assert!(session.rtt().is_some());
        let listen = RemoteListen::Tcp {
            address: "localhost".into(),
            port: 80,
        };
        let start = Instant::now();
        let asked = session.request_forward(&listen).await;
        assert!(matches!(asked, Err(RequestError::Refused)), "{asked:?}");
        assert_eq!(start.elapsed(), Duration::ZERO);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_open_times_out_alone() {
    let script = async |server: &mut Server| {
        server.expect(OPEN).await;
        server.confirm_open(1000, 32768).await;
    };
    play(script, async |session, _incoming| {
        let start = Instant::now();
        let refused = open(&session).await;
        assert!(matches!(refused, Err(OpenError::Timeout(_))));
        assert_eq!(start.elapsed(), Duration::from_secs(10));
        let _channel = open(&session).await.unwrap();
        assert!(!session.is_closed());
    })
    .await;
}

/// A confirmation after the timeout opens no channel and does not end the session.
#[tokio::test(start_paused = true)]
async fn an_open_that_is_confirmed_too_late_is_closed() {
    for opened in [true, false] {
        let script = async |server: &mut Server| {
            server.expect(OPEN).await;
            sleep(Duration::from_secs(20)).await;
            if opened {
                server.send(&confirmation(0, 1000, 32768)).await;
                assert_eq!(server.expect(CLOSE).await, for_channel(CLOSE, 7));
                server.send(&for_channel(CLOSE, 0)).await;
            } else {
                let refusal = message(OPEN_FAILURE, |out| {
                    use tunneld_ssh::wire::Writer;
                    out.u32(0);
                    out.u32(2);
                    out.string("late");
                    out.string("");
                });
                server.send(&refusal).await;
            }
            assert_eq!(
                server.confirm_open(1000, 32768).await,
                0,
                "the number is free"
            );
        };
        play(script, async |session, _incoming| {
            assert!(matches!(open(&session).await, Err(OpenError::Timeout(_))));
            sleep(Duration::from_secs(15)).await;
            let _channel = open(&session).await.unwrap();
            assert_eq!(session.violations(), 0);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_forward_request_times_out_alone() {
    let listen = RemoteListen::Tcp {
        address: "localhost".into(),
        port: 8080,
    };
    play(
        async |server: &mut Server| server.answers_keepalives = false,
        async |session, _incoming| {
            // Answers are matched by order: one to an earlier request would count for this one.
            session.ping(Duration::from_secs(1)).await.unwrap_err();
            let start = Instant::now();
            let refused = session.request_forward(&listen).await;
            assert!(matches!(refused, Err(RequestError::Timeout(_))));
            assert_eq!(start.elapsed(), Duration::from_secs(10));
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_rekey_of_ours_ends_the_session() {
    let config = Config {
        rekey_time: Some(Duration::from_secs(5)),
        ..Config::default()
    };
    let end = attack_with(config, Offer::default(), When::Session, async |server| {
        server.expect_keeping_others(KEXINIT).await;
    })
    .await;
    // The server is also silent: keepalive detects it first.
    assert!(end.after <= Duration::from_secs(5 + 60), "{end:?}");
    assert!(
        matches!(end.error, Error::DeadPeer(_) | Error::Timeout(_)),
        "{end:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_rekey_of_the_server_ends_the_session() {
    for step in 0..2 {
        let end = attack(When::Session, async |server| {
            server.send_kexinit(&Offer::default()).await;
            server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
            if step == 1 {
                let init = server.expect_keeping_others(KEX_INIT).await;
                let (reply, _keys) = server.peer.reply(&init);
                server.send(&reply).await;
                server.peer.ignores_input = true;
            }
            // The server is not silent: IGNORE is allowed between the messages of a key exchange.
            loop {
                sleep(Duration::from_secs(5)).await;
                if !server.send(&[IGNORE, 0, 0, 0, 0]).await {
                    return;
                }
            }
        })
        .await;
        end.says("timed out while waiting for the key exchange");
        assert!(end.after <= Duration::from_secs(60), "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_waiting_call_fails_when_the_session_dies() {
    let options = Options {
        keepalive: Some((Duration::from_secs(2), 3)),
        ..Options::default()
    };
    let script = async |server: &mut Server| {
        server.confirm_open(0, 32768).await;
        server.answers_keepalives = false;
    };
    play_with(
        Config::default(),
        options,
        script,
        async |session, mut incoming| {
            let (mut reader, mut writer) = open(&session).await.unwrap().split();
            let start = Instant::now();
            let read = async { reader.read_u8().await.unwrap_err().kind() };
            let write = async {
                use tokio::io::AsyncWriteExt;
                writer.write_all(b"x").await.unwrap_err().kind()
            };
            let opened = async { matches!(open(&session).await, Err(OpenError::SessionEnded(_))) };
            let (read, write, opened, error) = tokio::join!(read, write, opened, session.closed());
            assert_eq!(read, std::io::ErrorKind::ConnectionAborted);
            assert_eq!(write, std::io::ErrorKind::ConnectionAborted);
            assert!(opened);
            assert!(matches!(error, Error::DeadPeer(_)), "{error:?}");
            assert_eq!(start.elapsed(), Duration::from_secs(6));
            assert!(incoming.recv().await.is_none());
        },
    )
    .await;
}
