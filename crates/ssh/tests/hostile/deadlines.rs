//! A server that never answers: each wait ends, and only what must ends with it.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep};
use tunneld_ssh::client::{OpenError, Options, RequestError};
use tunneld_ssh::connection::RemoteListen;
use tunneld_ssh::{Config, Error};

use crate::peer::*;
use crate::play::*;

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_before_its_keys_is_left_after_30_s() {
    for step in 0..3 {
        let end = attack(When::Kex, async |server| {
            if step > 0 {
                server.init(&Offer::default()).await;
            }
            if step > 1 {
                server.peer.theirs = server.aside(KEXINIT).await;
                let init = server.aside(KEX_INIT).await;
                let (reply, _keys) = server.peer.reply(&init);
                server.send(&reply).await;
                server.peer.deaf = true;
            }
        })
        .await;
        end.says("timed out").before_login();
        assert_eq!(end.after, Duration::from_secs(30), "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_falls_silent_is_dead_after_interval_times_count() {
    let end = attack(When::Session, async |server| server.polite = false).await;
    assert!(matches!(end.error, Error::DeadPeer(_)), "{end:?}");
    assert_eq!(end.after, Duration::from_secs(45));
}

/// Some servers answer what they do not know with UNIMPLEMENTED: as good a sign of life as any.
#[tokio::test(start_paused = true)]
async fn a_server_that_knows_no_requests_lives_on() {
    let script = async |server: &mut Server| server.obtuse = true;
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
async fn an_open_that_is_never_answered_ends_alone() {
    let script = async |server: &mut Server| {
        server.expect(OPEN).await;
        server.confirm(1000, 32768).await;
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

/// The answer that comes when nobody waits any more opens nothing and breaks nothing.
#[tokio::test(start_paused = true)]
async fn an_open_that_is_answered_too_late_is_closed() {
    for opened in [true, false] {
        let script = async |server: &mut Server| {
            server.expect(OPEN).await;
            sleep(Duration::from_secs(20)).await;
            if opened {
                server.send(&confirmation(0, 1000, 32768)).await;
                assert_eq!(server.expect(CLOSE).await, of(CLOSE, 7));
                server.send(&of(CLOSE, 0)).await;
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
            assert_eq!(server.confirm(1000, 32768).await, 0, "the number is free");
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
async fn a_forward_that_is_never_answered_ends_alone() {
    let listen = RemoteListen::Tcp {
        address: "localhost".into(),
        port: 8080,
    };
    play(
        async |server: &mut Server| server.polite = false,
        async |session, _incoming| {
            // An answer to an earlier request would be taken for this one's: they come in order.
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
async fn new_keys_of_ours_that_are_never_answered_end_it() {
    let config = Config {
        rekey_time: Some(Duration::from_secs(5)),
        ..Config::default()
    };
    let end = attack_with(config, Offer::default(), When::Session, async |server| {
        server.aside(KEXINIT).await;
    })
    .await;
    // It is silent besides: that is found first.
    assert!(end.after <= Duration::from_secs(5 + 60), "{end:?}");
    assert!(
        matches!(end.error, Error::DeadPeer(_) | Error::Timeout(_)),
        "{end:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn new_keys_of_the_servers_that_it_never_finishes_end_it() {
    for step in 0..2 {
        let end = attack(When::Session, async |server| {
            server.init(&Offer::default()).await;
            server.peer.theirs = server.aside(KEXINIT).await;
            if step == 1 {
                let init = server.aside(KEX_INIT).await;
                let (reply, _keys) = server.peer.reply(&init);
                server.send(&reply).await;
                server.peer.deaf = true;
            }
            // It is not silent: idle talk may pass between the messages of an exchange.
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
async fn everyone_who_waits_is_told_when_the_session_dies() {
    let options = Options {
        keepalive: Some((Duration::from_secs(2), 3)),
        ..Options::default()
    };
    let script = async |server: &mut Server| {
        server.confirm(0, 32768).await;
        server.polite = false;
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
