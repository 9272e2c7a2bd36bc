//! Floods of messages that cost the server little to send and the client something to answer.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tunneld_ssh::wire::Writer;

use crate::peer::*;
use crate::play::*;

#[tokio::test(start_paused = true)]
async fn a_flood_of_global_requests_ends_the_session() {
    for wants_reply in [true, false] {
        let request = global("tell-me@example.org", wants_reply, b"");
        let end = attack(When::Session, async |server| {
            let taken = server.flood(&request, 1_000_000).await;
            assert!(taken < 10_000, "{taken}");
        })
        .await;
        end.says("more than 1000 requests in a second");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_a_second_are_answered_if_wanted() {
    let script = async |server: &mut Server| {
        for _ in 0..5 {
            for wants_reply in [false, true] {
                let request = global("keepalive@openssh.com", wants_reply, b"");
                assert_eq!(server.flood(&request, 400).await, 400);
            }
            sleep(Duration::from_secs(1)).await;
        }
        for _ in 0..2000 {
            server.expect(REQUEST_FAILURE).await;
        }
        assert!(
            timeout(Duration::from_secs(5), server.next())
                .await
                .is_err()
        );
    };
    play(script, async |session, _incoming| {
        sleep(Duration::from_secs(30)).await;
        assert!(!session.is_closed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_channel_requests_ends_the_session() {
    let script = async |server: &mut Server| {
        let id = server.confirm_open(0, 32768).await;
        let request = message(CHANNEL_REQUEST, |out| {
            out.u32(id);
            out.string("exit-status");
            out.bool(true);
            out.u32(0);
        });
        server.flood(&request, 1_000_000).await;
    };
    let error = play(script, async |session, _incoming| {
        let _channel = open(&session).await.unwrap();
        session.closed().await
    })
    .await;
    assert!(
        error
            .to_string()
            .contains("more than 1000 requests in a second")
    );
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_host_keys_end_the_session() {
    let mut keys = Vec::new();
    for _ in 0..10_000 {
        keys.string(b"k");
    }
    let end = attack(When::Session, async |server| {
        server
            .send(&global("hostkeys-00@openssh.com", false, &keys))
            .await;
    })
    .await;
    end.says("more than 64 host keys");
}

/// Announced keys are the server's claims; the session keeps the host key that it was made with.
#[tokio::test(start_paused = true)]
async fn announced_host_keys_are_reported_and_not_trusted() {
    let mut keys = Vec::new();
    keys.string(b"another key");
    let script = async |server: &mut Server| {
        server
            .send(&global("hostkeys-00@openssh.com", false, &keys))
            .await;
    };
    play(script, async |session, _incoming| {
        let mut announced = session.host_keys();
        let announced = announced.wait_for(|keys| !keys.is_empty()).await.unwrap();
        assert_eq!(announced[0], &b"another key"[..]);
        assert_ne!(session.info().host_key.blob, announced[0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_third_ext_info_ends_the_session() {
    for when in [When::Auth, When::Session] {
        let info = message(EXT_INFO, |out| {
            out.u32(1);
            out.string("server-sig-algs");
            out.string("ssh-ed25519");
        });
        let end = attack(when, async |server| {
            server.flood(&info, 3).await;
        })
        .await;
        end.says("EXT_INFO too often");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ext_info_with_too_many_extensions_ends_the_session() {
    for payload in [
        vec![EXT_INFO],
        vec![EXT_INFO, 0xff, 0xff, 0xff, 0xff],
        vec![EXT_INFO, 0, 0, 0, 1, 0, 0, 0, 200],
    ] {
        let end = attack(When::Auth, async |server| {
            server.send(&payload).await;
        })
        .await;
        end.says("malformed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_messages_without_effect_ends_the_session() {
    for when in [When::Auth, When::Session] {
        for payload in [
            message(IGNORE, |out| out.string("")),
            message(DEBUG, |out| {
                out.bool(true);
                out.string("\x1b[2Jlook at me");
                out.string("");
            }),
            message(UNIMPLEMENTED, |out| out.u32(0)),
            // Unknown numbers of the transport are answered, but not endlessly.
            vec![15],
        ] {
            let end = attack(when, async |server| {
                let taken = server.flood(&payload, 1_000_000).await;
                assert!(taken < 20_000, "{taken}");
            })
            .await;
            end.says("a flood of messages without effect");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_messages_are_answered_and_many_end_the_session() {
    let script = async |server: &mut Server| {
        for number in [70, 101, 127, 192, 255] {
            server.send(&[number, 1, 2, 3]).await;
            server.expect(UNIMPLEMENTED).await;
        }
        server.flood(&[255], 100).await;
    };
    let error = play(script, async |session, _incoming| session.closed().await).await;
    assert!(error.to_string().contains("more than 20 messages in 10 s"));
}

#[tokio::test(start_paused = true)]
async fn unrequested_answers_end_the_session() {
    for answer in [REQUEST_SUCCESS, REQUEST_FAILURE] {
        let end = attack(When::Session, async |server| {
            // The first may count as the answer to the client's own keepalive.
            server.answers_keepalives = false;
            server.flood(&[answer], 3).await;
        })
        .await;
        end.says("an answer to a request that was not made");
    }
}

/// A server that requests replies and does not read them is disconnected before they fill the memory.
#[tokio::test(start_paused = true)]
async fn unread_answers_are_bounded() {
    let (ours, theirs) = tokio::io::duplex(16 * 1024);
    let scene = async {
        let mut server = Server::new(theirs);
        server.advance_to(When::Session, &Offer::default()).await;
        let request = global("x", true, b"");
        let start = Instant::now();
        loop {
            if server.flood(&request, 900).await < 900 {
                return start.elapsed();
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    let client = async {
        let stream = tunneld_ssh::client::Stream::other(ours);
        let mut authenticator = connect(stream, Default::default(), Default::default())
            .await
            .unwrap();
        authenticator.none().await.unwrap();
        let (session, _incoming) = authenticator.into_session().unwrap();
        session.closed().await
    };
    let (error, lasted) = tokio::join!(client, scene);
    assert!(error.to_string().contains("does not read them"), "{error}");
    // 900 answers of 36 bytes per second fill 4 MiB in a little more than two minutes.
    assert!(lasted < Duration::from_secs(150), "{lasted:?}");
}
