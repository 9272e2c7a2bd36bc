//! Attacks with channels that the server opens and with its answers to `tcpip-forward` (RFC 4254 §7).

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tunneld_ssh::client::{IncomingChannels, RequestError, Session};
use tunneld_ssh::connection::RemoteListen;
use tunneld_ssh::wire::{Reader, Writer};

use crate::peer::*;
use crate::play::*;

fn listen(port: u16) -> RemoteListen {
    RemoteListen::Tcp {
        address: "localhost".into(),
        port,
    }
}

fn forwarded(sender: u32, port: u32) -> Vec<u8> {
    opening("forwarded-tcpip", sender, |out| {
        out.string("localhost");
        out.u32(port);
        out.string("192.0.2.1");
        out.u32(4321);
    })
}

fn opening(kind: &str, sender: u32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    message(OPEN, |out| {
        out.string(kind);
        out.u32(sender);
        out.u32(1 << 20);
        out.u32(32768);
        fill(out);
    })
}

/// Channel number and reason code of the client's next refusal.
async fn refusal(server: &mut Server) -> (u32, u32) {
    let payload = server.expect(OPEN_FAILURE).await;
    let mut body = Reader::new(&payload[1..]);
    (body.u32().unwrap(), body.u32().unwrap())
}

/// Asserts that no channel arrives and that the session stays open.
async fn assert_no_channel(session: &Session, incoming: &mut IncomingChannels) {
    assert!(
        timeout(Duration::from_secs(20), incoming.recv())
            .await
            .is_err()
    );
    assert!(!session.is_closed());
}

#[tokio::test(start_paused = true)]
async fn every_unrequested_channel_type_is_prohibited() {
    let script = async |server: &mut Server| {
        let kinds = [
            "session",
            "x11",
            "auth-agent",
            "auth-agent@openssh.com",
            "direct-tcpip",
            "direct-streamlocal@openssh.com",
            "tun@openssh.com",
            "\x1b[2J",
            "",
        ];
        for (sender, kind) in (0..).zip(kinds) {
            let open = opening(kind, sender, |out| {
                out.string("localhost");
                out.u32(22);
                out.string("localhost");
                out.u32(22);
            });
            server.send(&open).await;
            assert_eq!(refusal(server).await, (sender, 1), "{kind}");
        }
        let unsolicited = forwarded(40, 8080);
        server.send(&unsolicited).await;
        assert_eq!(refusal(server).await, (40, 1));
        let unix = opening("forwarded-streamlocal@openssh.com", 41, |out| {
            out.string("/run/any");
            out.string("");
        });
        server.send(&unix).await;
        assert_eq!(refusal(server).await, (41, 1));
    };
    play(script, async |session, mut incoming| {
        assert_no_channel(&session, &mut incoming).await;
        assert_eq!(session.violations(), 11);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_the_requested_port_is_accepted_and_only_until_it_is_cancelled() {
    let script = async |server: &mut Server| {
        server.expect(GLOBAL_REQUEST).await;
        server.send(&[REQUEST_SUCCESS]).await;
        for port in [8081, 70000, 8080 + 65536, 0, u32::MAX] {
            server.send(&forwarded(port, port)).await;
            assert_eq!(refusal(server).await, (port, 1));
        }
        server.send(&forwarded(1, 8080)).await;
        server.expect(CONFIRMATION).await;
        // Cancelled: refused at once, before the server has answered.
        server.expect(GLOBAL_REQUEST).await;
        server.send(&forwarded(2, 8080)).await;
        assert_eq!(refusal(server).await, (2, 1));
        server.send(&[REQUEST_SUCCESS]).await;
        server.send(&forwarded(3, 8080)).await;
        assert_eq!(refusal(server).await, (3, 1));
    };
    play(script, async |session, mut incoming| {
        assert_eq!(session.request_forward(&listen(8080)).await.unwrap(), 8080);
        let first = incoming.recv().await.unwrap();
        assert_eq!((first.listen, first.bound_port), (listen(8080), 8080));
        let _channel = first.channel.accept().unwrap();
        session.cancel_forward(&listen(8080)).await.unwrap();
        assert_no_channel(&session, &mut incoming).await;
        // Five wrong ports and one long after the cancel request; the one that crossed it is not a violation.
        assert_eq!(session.violations(), 6);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unrequested_channels_ends_the_session() {
    let end = attack(When::Session, async |server| {
        let taken = server.flood(&forwarded(1, 8080), 100_000).await;
        assert!(taken < 10_000, "{taken}");
    })
    .await;
    end.says("more than 20 messages in 10 s that are not allowed");
    assert_eq!(
        end.seen
            .iter()
            .filter(|number| **number == OPEN_FAILURE)
            .count(),
        21
    );
}

/// A flood on an active forward: channels beyond the queue are refused, and the session stays open.
#[tokio::test(start_paused = true)]
async fn ten_thousand_channels_of_a_forward_wait_in_a_bounded_queue() {
    let script = async |server: &mut Server| {
        server.expect(GLOBAL_REQUEST).await;
        server.send(&[REQUEST_SUCCESS]).await;
        for sender in 0..10_000 {
            server.send(&forwarded(sender, 8080)).await;
            if sender >= 128 {
                assert_eq!(refusal(server).await, (sender, 4));
            }
        }
    };
    play(script, async |session, mut incoming| {
        session.request_forward(&listen(8080)).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        let mut waiting = 0;
        while let Some(one) = incoming.try_recv() {
            one.channel.refuse(2, "no");
            waiting += 1;
        }
        assert_eq!(waiting, 128);
        assert!(!session.is_closed());
    })
    .await;
}

async fn granted(port: u16, answer: &[u8]) -> Result<u16, RequestError> {
    let answer = [&[REQUEST_SUCCESS], answer].concat();
    let script = async |server: &mut Server| {
        server.expect(GLOBAL_REQUEST).await;
        server.send(&answer).await;
    };
    play(script, async |session, mut incoming| {
        let result = session.request_forward(&listen(port)).await;
        assert_no_channel(&session, &mut incoming).await;
        result
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_chosen_port_must_be_reported_and_valid() {
    for nonsense in [
        &[][..],
        &[0, 0, 0, 0],
        &[0, 1, 0, 0],
        &[0xff; 4],
        &[0x1f, 0x90],
        &[0, 0, 0x1f, 0x90, 0],
    ] {
        let result = granted(0, nonsense).await;
        assert!(
            matches!(result, Err(RequestError::InvalidReply)),
            "{nonsense:?}: {result:?}"
        );
    }
    assert_eq!(granted(0, &[0, 0, 0x1f, 0x90]).await.unwrap(), 8080);
}

#[tokio::test(start_paused = true)]
async fn another_port_than_requested_is_invalid() {
    for nonsense in [
        &[0, 0, 0x1f, 0x91][..],
        &[0, 0, 0, 0],
        &[0],
        &[0, 0, 0x1f, 0x90, 0xff],
        &[0, 1, 0x1f, 0x90],
    ] {
        let result = granted(8080, nonsense).await;
        assert!(
            matches!(result, Err(RequestError::InvalidReply)),
            "{nonsense:?}: {result:?}"
        );
    }
    assert_eq!(granted(8080, &[]).await.unwrap(), 8080);
    assert_eq!(granted(8080, &[0, 0, 0x1f, 0x90]).await.unwrap(), 8080);
}

/// A forward that was granted with an invalid reply entitles the server to no channels.
#[tokio::test(start_paused = true)]
async fn a_failed_forward_entitles_to_no_channels() {
    let script = async |server: &mut Server| {
        server.expect(GLOBAL_REQUEST).await;
        server.send(&[REQUEST_SUCCESS, 0, 0, 0x1f, 0x91]).await;
        for port in [8080, 8081] {
            server.send(&forwarded(port, port)).await;
            assert_eq!(refusal(server).await, (port, 1));
        }
    };
    play(script, async |session, mut incoming| {
        session.request_forward(&listen(8080)).await.unwrap_err();
        assert_no_channel(&session, &mut incoming).await;
    })
    .await;
}
