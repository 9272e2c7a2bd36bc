//! The client over an in-memory pipe with a paused clock, against a scripted server.

mod flow_control;

use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, duplex};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::auth::AuthResult;
use crate::connection::RemoteListen;
use crate::error::Error;
use crate::testing::peer::{
    SECOND, ServerPeer, connect, established, open_channel, without_keepalive,
};
use crate::wire::{Reader, Writer};

#[tokio::test(start_paused = true)]
async fn a_silent_server_times_out_after_thirty_seconds() {
    let (client_end, _peer) = duplex(1000);
    let start = Instant::now();
    let error = connect(client_end, Options::default()).await.err().unwrap();
    assert!(matches!(error, Error::Timeout(_)), "{error}");
    assert_eq!(start.elapsed(), 30 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_authentication_request_times_out() {
    let (client_end, mut peer) = ServerPeer::new(100_000);
    let (authenticator, _) = tokio::join!(connect(client_end, Options::default()), async {
        while peer.server.exchanges == 0 {
            peer.flush().await;
            peer.read().await;
        }
        peer.flush().await;
    });
    let start = Instant::now();
    let error = authenticator.unwrap().none().await.unwrap_err();
    assert!(matches!(error, Error::Timeout(_)), "{error}");
    assert_eq!(start.elapsed(), 30 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_an_error_and_not_a_refusal() {
    let (client_end, mut peer) = ServerPeer::new(100_000);
    let client = async {
        let mut authenticator = connect(client_end, Options::default()).await.unwrap();
        authenticator.password("secret", None).await
    };
    let server = async {
        peer.expect(50).await;
        drop(peer);
    };
    let (result, ()) = tokio::join!(client, server);
    assert!(matches!(result, Err(Error::Eof)), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn prompts_and_their_answers_are_passed_on() {
    let (client_end, mut peer) = ServerPeer::new(100_000);
    let client = async {
        let mut authenticator = connect(client_end, Options::default()).await.unwrap();
        let AuthResult::InfoRequest(request) =
            authenticator.keyboard_interactive("").await.unwrap()
        else {
            panic!("no prompts");
        };
        assert_eq!(request.prompts[0].text, "Code: ");
        // A user may take longer than any time limit for the server.
        tokio::time::sleep(300 * SECOND).await;
        authenticator.info_response(&["42"]).await.unwrap()
    };
    let server = async {
        peer.expect(5).await;
        peer.send(6, |out| out.string("ssh-userauth")).await;
        peer.expect(50).await;
        peer.send(60, |out| {
            out.string("");
            out.string("");
            out.string("");
            out.u32(1);
            out.string("Code: ");
            out.bool(false);
        })
        .await;
        let answers = peer.expect(61).await;
        assert_eq!(&answers[1..], b"\0\0\0\x01\0\0\0\x0242");
        peer.send(52, |_| {}).await;
        peer.answer_pings().await;
    };
    tokio::select! {
        result = client => assert_eq!(result, AuthResult::Success),
        () = server => panic!("the server ended first"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_open_times_out_and_is_closed_when_it_is_confirmed() {
    let (session, _incoming, mut peer) = established(without_keepalive(), 100_000).await;
    let start = Instant::now();
    let open = session.open_direct_streamlocal("/x").await;
    assert!(matches!(open, Err(OpenError::Timeout(_))));
    assert_eq!(start.elapsed(), 10 * SECOND);
    let id = peer.confirm_open(1000).await;
    let close = peer.expect(97).await;
    assert_eq!(close[1..], id.to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_forward_that_is_granted_too_late_is_cancelled() {
    let (session, _incoming, mut peer) = established(without_keepalive(), 100_000).await;
    let listen = RemoteListen::Tcp {
        address: "localhost".into(),
        port: 0,
    };
    let start = Instant::now();
    let asked = session.request_forward(&listen).await;
    assert!(matches!(asked, Err(RequestError::Timeout(_))));
    assert_eq!(start.elapsed(), 10 * SECOND);
    peer.expect(80).await;
    peer.send(81, |out| out.u32(4000)).await;
    let cancel = peer.expect(80).await;
    assert!(cancel.ends_with(&4000u32.to_be_bytes()));
    assert!(cancel[5..].starts_with(b"cancel-tcpip-forward"));
}

/// The answer was received, and the caller drops its future before it is polled again.
#[tokio::test(start_paused = true)]
async fn a_granted_forward_whose_caller_is_gone_is_cancelled() {
    let (session, _incoming, mut peer) = established(without_keepalive(), 100_000).await;
    let listen = RemoteListen::Tcp {
        address: "localhost".into(),
        port: 0,
    };
    let forward = async |peer: &mut ServerPeer, port| {
        peer.expect(80).await;
        peer.send(81, |out| out.u32(port)).await;
    };
    let (kept, ()) = tokio::join!(session.request_forward(&listen), forward(&mut peer, 4000));
    assert_eq!(kept.unwrap(), 4000);
    let mut request = Box::pin(session.request_forward(&listen));
    let first = std::future::poll_fn(|cx| Poll::Ready(request.as_mut().poll(cx)));
    assert!(first.await.is_pending());
    forward(&mut peer, 4001).await;
    // The client has handled it once it answers the request that follows.
    peer.send(80, |out| {
        out.string("x");
        out.bool(true);
    })
    .await;
    peer.expect(82).await;
    drop(request);
    let cancel = peer.expect(80).await;
    assert!(cancel[5..].starts_with(b"cancel-tcpip-forward"));
    assert!(
        cancel.ends_with(&4001u32.to_be_bytes()),
        "the forward that is still wanted was cancelled"
    );
}

#[tokio::test(start_paused = true)]
async fn every_task_that_waits_for_close_is_woken() {
    let (session, _incoming, mut peer) = established(without_keepalive(), 100_000).await;
    let (channel, id) = open_channel(&session, &mut peer, 10).await;
    let writer = std::sync::Arc::new(channel.split().1);
    let mut waiting = JoinSet::new();
    for _ in 0..3 {
        let writer = std::sync::Arc::clone(&writer);
        waiting.spawn(async move { writer.closed().await });
    }
    tokio::task::yield_now().await;
    peer.send(97, |out| out.u32(id)).await;
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_timeouts_do_not_overflow_the_clock() {
    let options = Options {
        keepalive: Some((Duration::MAX, u32::MAX)),
        handshake_timeout: Duration::MAX,
        auth_timeout: Duration::MAX,
        open_timeout: Duration::MAX,
        request_timeout: Duration::MAX,
        ..Options::default()
    };
    let (session, _incoming, mut peer) = established(options, 100_000).await;
    let (_channel, _) = open_channel(&session, &mut peer, 10).await;
    tokio::time::sleep(3600 * SECOND).await;
    assert!(!session.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_detected_on_time() {
    for blocked in [false, true] {
        let options = Options {
            keepalive: Some((2 * SECOND, 3)),
            ..Options::default()
        };
        let (session, _incoming, mut peer) = established(options, 100_000).await;
        let (channel, _) = open_channel(&session, &mut peer, 1 << 30).await;
        let start = Instant::now();
        let mut writer = channel.split().1;
        if blocked {
            // Far more than the pipe and the output can hold.
            let error = writer.write_all(&vec![0; 4 << 20]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        }
        let why = session.closed().await;
        assert!(matches!(why, Error::DeadPeer(_)), "{why}");
        assert_eq!(start.elapsed(), 6 * SECOND, "blocked: {blocked}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_pings_stays_connected() {
    let options = Options {
        keepalive: Some((2 * SECOND, 1)),
        ..Options::default()
    };
    let (session, _incoming, peer) = established(options, 100_000).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(peer.answer_pings());
    tokio::time::sleep(600 * SECOND).await;
    assert!(!session.is_closed());
    assert!(session.ping(SECOND).await.is_ok());
    assert!(session.rtt().is_some());
}

#[tokio::test(start_paused = true)]
async fn every_waiting_task_gets_the_end_of_the_session() {
    let (session, _incoming, mut peer) = established(without_keepalive(), 100_000).await;
    let (first, _) = open_channel(&session, &mut peer, 10).await;
    let (mut reader, mut writer) = first.split();
    let (second, _) = open_channel(&session, &mut peer, 10).await;
    let second = second.split().1;
    let waits = async {
        tokio::join!(
            reader.read_chunk(),
            writer.write_all(&[0; 100]),
            session.open_direct_streamlocal("/x"),
            session.ping(60 * SECOND),
            second.closed(),
        )
    };
    let ends = async {
        peer.expect(94).await;
        peer.expect(90).await;
        peer.expect(80).await;
        peer.send(1, |out| {
            out.u32(10);
            out.string("maintenance");
            out.string("");
        })
        .await;
    };
    let ((read, write, open, ping, ()), ()) = tokio::join!(waits, ends);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(write.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    let Err(OpenError::SessionEnded(Error::Disconnected { code: 10, text, .. })) = open else {
        panic!("{open:?}");
    };
    assert_eq!(text, "maintenance");
    assert!(matches!(ping, Err(RequestError::SessionEnded(_))));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_channels_ends_the_session_with_a_disconnect() {
    let (session, _incoming, mut peer) = established(without_keepalive(), 100_000).await;
    for sender in 0..30 {
        peer.server.send(&forwarded(80, sender));
    }
    peer.flush().await;
    let why = session.closed().await;
    assert!(matches!(why, Error::Protocol(_)), "{why}");
    let refused = peer.expect(92).await;
    assert_eq!(refused[5..9], 1u32.to_be_bytes());
    assert!(session.violations() > 20);
}

fn forwarded(port: u32, sender: u32) -> Vec<u8> {
    let mut open = vec![90];
    open.string("forwarded-tcpip");
    open.u32(sender);
    open.u32(1000);
    open.u32(32768);
    open.string("localhost");
    open.u32(port);
    open.string("10.0.0.9");
    open.u32(5);
    open
}

#[tokio::test(start_paused = true)]
async fn forwarded_channels_beyond_the_queue_or_dropped_are_refused() {
    let options = Options {
        max_incoming: 2,
        ..without_keepalive()
    };
    let (session, mut incoming, mut peer) = established(options, 100_000).await;
    let listen = RemoteListen::Tcp {
        address: "localhost".into(),
        port: 80,
    };
    let (asked, ()) = tokio::join!(session.request_forward(&listen), async {
        peer.expect(80).await;
        peer.send(81, |_| {}).await;
    });
    assert_eq!(asked.unwrap(), 80);
    for sender in 0..3 {
        peer.server.send(&forwarded(80, sender));
    }
    peer.flush().await;
    let refused = peer.expect(92).await;
    assert_eq!(refused[1..9], [0, 0, 0, 2, 0, 0, 0, 4]);
    let taken = incoming.recv().await.unwrap().channel.accept().unwrap();
    assert_eq!(peer.expect(91).await[1..5], 0u32.to_be_bytes());
    // A channel that is dropped before it is accepted is refused; afterwards it is closed.
    drop(incoming.recv().await.unwrap());
    assert_eq!(peer.expect(92).await[1..5], 1u32.to_be_bytes());
    drop(taken);
    assert_eq!(peer.expect(97).await[1..5], 0u32.to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn bulk_writers_take_turns_and_a_small_write_overtakes_them() {
    let (session, _incoming, mut peer) = established(without_keepalive(), 1000).await;
    let mut writers = JoinSet::new();
    for _ in 0..4 {
        let (channel, _) = open_channel(&session, &mut peer, 1 << 30).await;
        let mut writer = channel.split().1;
        writers.spawn(async move {
            writer.write_all(&vec![0; 2 << 20]).await.unwrap();
            std::future::pending::<()>().await;
        });
    }
    let (mut small, small_id) = open_channel(&session, &mut peer, 1000).await;
    // Now all of them wait for their turns.
    tokio::time::sleep(SECOND).await;
    small.write_all(b"ping").await.unwrap();
    let mut counts = [0usize; 4];
    let mut before_small = None;
    for _ in 0..128 {
        let data = peer.expect(94).await;
        let mut body = Reader::new(&data[1..]);
        let id = body.u32().unwrap();
        if id == small_id {
            before_small = Some(counts.iter().sum::<usize>());
            continue;
        }
        counts[id as usize] += body.string().unwrap().len();
    }
    let ahead = before_small.expect("the small write did not arrive");
    assert!(ahead < 700 * 1024, "{ahead} bytes arrived before it");
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 300 * 1024, "not fair: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_last_handle() {
    let (session, incoming, mut peer) = established(without_keepalive(), 100_000).await;
    let (channel, _) = open_channel(&session, &mut peer, 10).await;
    drop((session, incoming));
    let (reader, mut writer) = channel.split();
    drop(reader);
    writer.write_all(b"still").await.unwrap();
    peer.expect(94).await;
    drop(writer);
    while peer.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn close_sends_disconnect() {
    let (session, _incoming, mut peer) = established(without_keepalive(), 100_000).await;
    let (received, ()) = tokio::join!(async { peer.expect(1).await }, session.close());
    assert_eq!(received[1..5], 11u32.to_be_bytes());
    assert!(session.is_closed());
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_a_server_that_does_not_read() {
    let (session, _incoming, mut peer) = established(without_keepalive(), 1000).await;
    let (channel, _) = open_channel(&session, &mut peer, 1 << 30).await;
    let mut writer = channel.split().1;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { writer.write_all(&vec![0; 4 << 20]).await });
    tokio::time::sleep(SECOND).await;
    let start = Instant::now();
    session.close().await;
    assert_eq!(start.elapsed(), SECOND);
    assert!(session.is_closed());
    assert!(tasks.join_next().await.unwrap().unwrap().is_err());
}
