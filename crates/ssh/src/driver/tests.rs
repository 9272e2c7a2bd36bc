//! The driver over a pipe in memory, its clock paused, against a server half that does what it is told.

use std::io::ErrorKind;
use std::task::Poll;

use tokio::io::{AsyncWriteExt, duplex};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::far::{Far, SECOND, channel, connect, standing, trusting};
use super::*;
use crate::auth::AuthResult;
use crate::connection::Listen;
use crate::error::Error;
use crate::wire::{Reader, Writer};

#[tokio::test(start_paused = true)]
async fn a_silent_server_has_thirty_seconds() {
    let (near, _far) = duplex(1000);
    let start = Instant::now();
    let error = connect(near, Options::default()).await.err().unwrap();
    assert!(matches!(error, Error::Timeout(_)), "{error}");
    assert_eq!(start.elapsed(), 30 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_not_answered_times_out() {
    let (near, mut far) = Far::new(100_000);
    let (connected, _) = tokio::join!(connect(near, Options::default()), async {
        while far.server.exchanges == 0 {
            far.flush().await;
            far.read().await;
        }
        far.flush().await;
    });
    let start = Instant::now();
    let error = connected.unwrap().none().await.unwrap_err();
    assert!(matches!(error, Error::Timeout(_)), "{error}");
    assert_eq!(start.elapsed(), 30 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_no_refusal() {
    let (near, mut far) = Far::new(100_000);
    let client = async {
        let mut connected = connect(near, Options::default()).await.unwrap();
        connected.password("secret", None).await
    };
    let server = async {
        far.expect(50).await;
        drop(far);
    };
    let (result, ()) = tokio::join!(client, server);
    assert!(matches!(result, Err(Error::Eof)), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn questions_are_passed_on_and_answers_back() {
    let (near, mut far) = Far::new(100_000);
    let client = async {
        let mut connected = connect(near, Options::default()).await.unwrap();
        let AuthResult::Prompts(prompts) = connected.keyboard_interactive("").await.unwrap() else {
            panic!("no prompts");
        };
        assert_eq!(prompts.prompts[0].text, "Code: ");
        // A person takes longer than any deadline of the server's.
        tokio::time::sleep(300 * SECOND).await;
        connected.answers(&["42"]).await.unwrap()
    };
    let server = async {
        far.expect(5).await;
        far.send(6, |out| out.string("ssh-userauth")).await;
        far.expect(50).await;
        far.send(60, |out| {
            out.string("");
            out.string("");
            out.string("");
            out.u32(1);
            out.string("Code: ");
            out.bool(false);
        })
        .await;
        let answers = far.expect(61).await;
        assert_eq!(&answers[1..], b"\0\0\0\x01\0\0\0\x0242");
        far.send(52, |_| {}).await;
        far.live().await;
    };
    tokio::select! {
        result = client => assert_eq!(result, AuthResult::Success),
        () = server => panic!("the server ended first"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_that_is_not_answered_times_out_and_is_closed_when_it_comes() {
    let (session, _incoming, mut far) = standing(trusting(), 100_000).await;
    let start = Instant::now();
    let open = session.open_direct_streamlocal("/x").await;
    assert!(matches!(open, Err(OpenError::Timeout(_))));
    assert_eq!(start.elapsed(), 10 * SECOND);
    let id = far.open(1000).await;
    let close = far.expect(97).await;
    assert_eq!(close[1..], id.to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_forward_that_is_granted_too_late_is_cancelled() {
    let (session, _incoming, mut far) = standing(trusting(), 100_000).await;
    let listen = Listen::Tcp {
        address: "localhost".into(),
        port: 0,
    };
    let start = Instant::now();
    let asked = session.request_forward(&listen).await;
    assert!(matches!(asked, Err(ForwardError::Timeout(_))));
    assert_eq!(start.elapsed(), 10 * SECOND);
    far.expect(80).await;
    far.send(81, |out| out.u32(4000)).await;
    let cancel = far.expect(80).await;
    assert!(cancel.ends_with(&4000u32.to_be_bytes()));
    assert!(cancel[5..].starts_with(b"cancel-tcpip-forward"));
}

/// The answer has come, and whoever asked goes before seeing it.
#[tokio::test(start_paused = true)]
async fn a_forward_whose_answer_nobody_sees_is_cancelled() {
    let (session, _incoming, mut far) = standing(trusting(), 100_000).await;
    let listen = Listen::Tcp {
        address: "localhost".into(),
        port: 0,
    };
    let forward = async |far: &mut Far, port| {
        far.expect(80).await;
        far.send(81, |out| out.u32(port)).await;
    };
    let (kept, ()) = tokio::join!(session.request_forward(&listen), forward(&mut far, 4000));
    assert_eq!(kept.unwrap(), 4000);
    let mut asked = Box::pin(session.request_forward(&listen));
    let first = std::future::poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx)));
    assert!(first.await.is_pending());
    forward(&mut far, 4001).await;
    // The client has taken it in when it answers what came after.
    far.send(80, |out| {
        out.string("x");
        out.bool(true);
    })
    .await;
    far.expect(82).await;
    drop(asked);
    let cancel = far.expect(80).await;
    assert!(cancel[5..].starts_with(b"cancel-tcpip-forward"));
    assert!(
        cancel.ends_with(&4001u32.to_be_bytes()),
        "the one that is wanted was cancelled"
    );
}

#[tokio::test(start_paused = true)]
async fn everyone_who_waits_for_a_close_hears_of_it() {
    let (session, _incoming, mut far) = standing(trusting(), 100_000).await;
    let (channel, id) = channel(&session, &mut far, 10).await;
    let writer = std::sync::Arc::new(channel.split().1);
    let mut waiting = JoinSet::new();
    for _ in 0..3 {
        let writer = std::sync::Arc::clone(&writer);
        waiting.spawn(async move { writer.closed().await });
    }
    tokio::task::yield_now().await;
    far.send(97, |out| out.u32(id)).await;
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn times_without_end_are_none_that_a_clock_cannot_hold() {
    let options = Options {
        alive: Some((Duration::MAX, u32::MAX)),
        handshake: Duration::MAX,
        login: Duration::MAX,
        open: Duration::MAX,
        request: Duration::MAX,
        ..Options::default()
    };
    let (session, _incoming, mut far) = standing(options, 100_000).await;
    let (_channel, _) = channel(&session, &mut far, 10).await;
    tokio::time::sleep(3600 * SECOND).await;
    assert!(!session.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_found_out_on_time() {
    for blocked in [false, true] {
        let options = Options {
            alive: Some((2 * SECOND, 3)),
            ..Options::default()
        };
        let (session, _incoming, mut far) = standing(options, 100_000).await;
        let (channel, _) = channel(&session, &mut far, 1 << 30).await;
        let start = Instant::now();
        let mut writer = channel.split().1;
        if blocked {
            // Far more than the pipe and the output hold.
            let error = writer.write_all(&vec![0; 4 << 20]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        }
        let why = session.closed().await;
        assert!(matches!(why, Error::DeadPeer(_)), "{why}");
        assert_eq!(start.elapsed(), 6 * SECOND, "blocked: {blocked}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_lives_on() {
    let options = Options {
        alive: Some((2 * SECOND, 1)),
        ..Options::default()
    };
    let (session, _incoming, far) = standing(options, 100_000).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(far.live());
    tokio::time::sleep(600 * SECOND).await;
    assert!(!session.is_closed());
    assert!(session.ping(SECOND).await.is_ok());
    assert!(session.rtt().is_some());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_hears_of_the_end() {
    let (session, _incoming, mut far) = standing(trusting(), 100_000).await;
    let (first, _) = channel(&session, &mut far, 10).await;
    let (mut reader, mut writer) = first.split();
    let (second, _) = channel(&session, &mut far, 10).await;
    let second = second.split().1;
    let waits = async {
        tokio::join!(
            reader.next(),
            writer.write_all(&[0; 100]),
            session.open_direct_streamlocal("/x"),
            session.ping(60 * SECOND),
            second.closed(),
        )
    };
    let ends = async {
        far.expect(94).await;
        far.expect(90).await;
        far.expect(80).await;
        far.send(1, |out| {
            out.u32(10);
            out.string("maintenance");
            out.string("");
        })
        .await;
    };
    let ((read, write, open, ping, ()), ()) = tokio::join!(waits, ends);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(write.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    let Err(OpenError::Ended(Error::Disconnected { code: 10, text, .. })) = open else {
        panic!("{open:?}");
    };
    assert_eq!(text, "maintenance");
    assert!(matches!(ping, Err(ForwardError::Ended(_))));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_channels_ends_the_session_with_a_word() {
    let (session, _incoming, mut far) = standing(trusting(), 100_000).await;
    for sender in 0..30 {
        far.server.send(&forwarded(80, sender));
    }
    far.flush().await;
    let why = session.closed().await;
    assert!(matches!(why, Error::Protocol(_)), "{why}");
    let refused = far.expect(92).await;
    assert_eq!(refused[5..9], 1u32.to_be_bytes());
    assert!(session.offences() > 20);
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
async fn forwarded_channels_that_nobody_takes_are_refused() {
    let options = Options {
        incoming: 2,
        ..trusting()
    };
    let (session, mut incoming, mut far) = standing(options, 100_000).await;
    let listen = Listen::Tcp {
        address: "localhost".into(),
        port: 80,
    };
    let (asked, ()) = tokio::join!(session.request_forward(&listen), async {
        far.expect(80).await;
        far.send(81, |_| {}).await;
    });
    assert_eq!(asked.unwrap(), 80);
    for sender in 0..3 {
        far.server.send(&forwarded(80, sender));
    }
    far.flush().await;
    let refused = far.expect(92).await;
    assert_eq!(refused[1..9], [0, 0, 0, 2, 0, 0, 0, 4]);
    let taken = incoming.recv().await.unwrap().channel.accept().unwrap();
    assert_eq!(far.expect(91).await[1..5], 0u32.to_be_bytes());
    // Dropped unanswered, it is refused; dropped once taken, it is closed.
    drop(incoming.recv().await.unwrap());
    assert_eq!(far.expect(92).await[1..5], 1u32.to_be_bytes());
    drop(taken);
    assert_eq!(far.expect(97).await[1..5], 0u32.to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn bulk_writers_take_turns_and_a_small_write_waits_for_none_of_them() {
    let (session, _incoming, mut far) = standing(trusting(), 1000).await;
    let mut writers = JoinSet::new();
    for _ in 0..4 {
        let (channel, _) = channel(&session, &mut far, 1 << 30).await;
        let mut writer = channel.split().1;
        writers.spawn(async move {
            writer.write_all(&vec![0; 2 << 20]).await.unwrap();
            std::future::pending::<()>().await;
        });
    }
    let (mut small, small_id) = channel(&session, &mut far, 1000).await;
    // All of them wait for their turns.
    tokio::time::sleep(SECOND).await;
    small.write_all(b"ping").await.unwrap();
    let mut counts = [0usize; 4];
    let mut before_small = None;
    for _ in 0..128 {
        let data = far.expect(94).await;
        let mut body = Reader::new(&data[1..]);
        let id = body.u32().unwrap();
        if id == small_id {
            before_small = Some(counts.iter().sum::<usize>());
            continue;
        }
        counts[id as usize] += body.string().unwrap().len();
    }
    let ahead = before_small.expect("the small write did not come");
    assert!(ahead < 700 * 1024, "{ahead} bytes came before it");
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 300 * 1024, "not fair: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_last_handle() {
    let (session, incoming, mut far) = standing(trusting(), 100_000).await;
    let (channel, _) = channel(&session, &mut far, 10).await;
    drop((session, incoming));
    let (reader, mut writer) = channel.split();
    drop(reader);
    writer.write_all(b"still").await.unwrap();
    far.expect(94).await;
    drop(writer);
    while far.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn closing_says_goodbye() {
    let (session, _incoming, mut far) = standing(trusting(), 100_000).await;
    let (received, ()) = tokio::join!(async { far.expect(1).await }, session.close());
    assert_eq!(received[1..5], 11u32.to_be_bytes());
    assert!(session.is_closed());
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_server_that_does_not_listen() {
    let (session, _incoming, mut far) = standing(trusting(), 1000).await;
    let (channel, _) = channel(&session, &mut far, 1 << 30).await;
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
