//! Attacks on channels and their windows (RFC 4254 §5).

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tunneld_ssh::Error;
use tunneld_ssh::client::{Channel, Session};
use tunneld_ssh::wire::Reader;

use crate::peer::*;
use crate::play::*;

/// Runs `script` and `client` with one open channel of this window and maximum packet size. The script gets the
/// client's channel number.
async fn channel<T>(
    window: u32,
    packet: u32,
    script: impl AsyncFnOnce(&mut Server, u32),
    client: impl AsyncFnOnce(Session, Channel) -> T,
) -> T {
    let script = async |server: &mut Server| {
        let id = server.confirm_open(window, packet).await;
        script(server, id).await;
    };
    play(script, async |session, _incoming| {
        let channel = open(&session).await.unwrap();
        client(session, channel).await
    })
    .await
}

/// Runs `script` and returns the protocol error that ends the session.
async fn session_error(script: impl AsyncFnOnce(&mut Server, u32)) -> String {
    channel(1 << 20, 32768, script, async |session, _channel| {
        let error = session.closed().await;
        assert!(matches!(error, Error::Protocol(_)), "{error:?}");
        error.to_string()
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn many_messages_for_unknown_channels_end_the_session() {
    for number in [DATA, ADJUST, EOF, CLOSE, CHANNEL_REQUEST] {
        let text = session_error(async |server, _id| {
            let payload = match number {
                DATA => data(99, b"x"),
                ADJUST => adjust(99, 1),
                CHANNEL_REQUEST => message(CHANNEL_REQUEST, |out| {
                    use tunneld_ssh::wire::Writer;
                    out.u32(99);
                    out.string("x");
                    out.bool(true);
                }),
                other => for_channel(other, 99),
            };
            server.flood(&payload, 100).await;
        })
        .await;
        assert!(
            text.contains("more than 20 messages in 10 s"),
            "{number}: {text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_messages_for_unknown_channels_are_tolerated() {
    let script = async |server: &mut Server, id: u32| {
        server.flood(&data(u32::MAX, b"x"), 10).await;
        server.send(&data(id, b"yes")).await;
    };
    channel(0, 32768, script, async |session, mut channel| {
        let mut read = [0; 3];
        channel.read_exact(&mut read).await.unwrap();
        assert_eq!(session.violations(), 10);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn data_past_the_window_ends_the_session() {
    let text = session_error(async |server, id| {
        // The client reads nothing: its window is 2 MiB, and one packet more exceeds it.
        server.flood(&data(id, &[0; 32768]), 65).await;
    })
    .await;
    assert!(text.contains("data past a channel's window"), "{text}");
    let text = session_error(async |server, id| {
        let stderr = message(95, |out| {
            use tunneld_ssh::wire::Writer;
            out.u32(id);
            out.u32(1);
            out.string([0; 200_000]);
        });
        // Extended data is discarded, and so consumed at once: only one packet can exceed the window.
        server.flood(&data(id, &[0; 32768]), 62).await;
        server.flood(&stderr, 2).await;
    })
    .await;
    assert!(text.contains("data past a channel's window"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_reader_costs_its_own_window_only() {
    let script = async |server: &mut Server| {
        let stopped = server.confirm_open(0, 32768).await;
        let other = server.confirm_open(0, 32768).await;
        server.flood(&data(stopped, &[1; 32768]), 64).await;
        for _ in 0..1000 {
            server.send(&data(other, &[2; 32768])).await;
        }
        server.send(&for_channel(EOF, other)).await;
    };
    play(script, async |session, _incoming| {
        let mut stopped = open(&session).await.unwrap();
        let mut other = open(&session).await.unwrap();
        let mut taken = 0;
        let mut block = vec![0; 65536];
        loop {
            let count = timeout(Duration::from_millis(50), other.read(&mut block))
                .await
                .expect("the other waits")
                .unwrap();
            if count == 0 {
                break;
            }
            taken += count;
        }
        assert_eq!(taken, 1000 * 32768);
        let mut rest = vec![0; 2 << 20];
        stopped.read_exact(&mut rest).await.unwrap();
        assert!(rest.iter().all(|byte| *byte == 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_window_overflow_ends_the_session() {
    let text = session_error(async |server, id| {
        server.send(&adjust(id, u32::MAX - (1 << 20))).await;
        server.send(&adjust(id, 1)).await;
    })
    .await;
    assert!(text.contains("a window of 2^32 bytes or more"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_window_adjust_of_zero_has_no_effect() {
    let script = async |server: &mut Server, id: u32| {
        server.flood(&adjust(id, 0), 10_000).await;
        server.send(&adjust(id, 3)).await;
        let written = server.expect(DATA).await;
        assert_eq!(&written[9..], b"abc");
    };
    channel(0, 32768, script, async |_session, mut channel| {
        let wrote = channel.write(b"abcdef").await.unwrap();
        assert_eq!(wrote, 3);
        sleep(Duration::from_secs(1)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tiny_maximum_packet_size_ends_the_session() {
    for size in [0, 1, 255] {
        let script = async |server: &mut Server| {
            server.confirm_open(1 << 20, size).await;
        };
        let error = play(script, async |session, _incoming| {
            open(&session).await.unwrap_err();
            session.closed().await
        })
        .await;
        assert!(
            error.to_string().contains("a tiny maximum packet size"),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_huge_maximum_packet_size_is_bounded_by_ours() {
    let script = async |server: &mut Server, _id: u32| {
        let mut total = 0;
        while total < 1 << 20 {
            let written = server.expect(DATA).await;
            let mut body = Reader::new(&written[5..]);
            let length = body.string().unwrap().len();
            assert!(length <= 32768, "{length}");
            total += length;
        }
    };
    channel(u32::MAX, u32::MAX, script, async |_session, mut channel| {
        channel.write_all(&vec![0; 1 << 20]).await.unwrap();
        // Keeps the channel open until everything is read.
        sleep(Duration::from_secs(5)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_window_of_zero_holds_up_its_own_writer_only() {
    let script = async |server: &mut Server| {
        server.confirm_open(0, 32768).await;
        let second = server.confirm_open(1000, 32768).await;
        let written = server.expect(DATA).await;
        assert_eq!(&written[9..], b"second");
        server.send(&data(second, b"answer")).await;
    };
    play(script, async |session, _incoming| {
        let mut first = open(&session).await.unwrap();
        let mut second = open(&session).await.unwrap();
        let held = timeout(Duration::from_secs(20), first.write_all(b"first")).await;
        assert!(held.is_err(), "written without window");
        second.write_all(b"second").await.unwrap();
        let mut answer = [0; 6];
        second.read_exact(&mut answer).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn data_after_eof_is_discarded() {
    let script = async |server: &mut Server, id: u32| {
        server.send(&data(id, b"before")).await;
        server.send(&for_channel(EOF, id)).await;
        server.send(&data(id, b"after")).await;
        server.send(&for_channel(EOF, id)).await;
    };
    channel(0, 32768, script, async |session, mut channel| {
        let mut read = Vec::new();
        channel.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"before");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(session.violations(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn messages_after_close_are_violations() {
    let script = async |server: &mut Server, id: u32| {
        server.send(&data(id, b"before")).await;
        for payload in [
            for_channel(CLOSE, id),
            for_channel(CLOSE, id),
            data(id, b"x"),
            for_channel(EOF, id),
        ] {
            server.send(&payload).await;
        }
    };
    channel(1 << 20, 32768, script, async |session, mut channel| {
        let mut read = Vec::new();
        let error = channel.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(
            (&read[..], error.kind()),
            (&b"before"[..], ErrorKind::ConnectionReset)
        );
        let error = channel.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(session.violations(), 3);
        assert!(!session.is_closed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_second_answer_to_an_open_ends_the_session() {
    let text = session_error(async |server, id| {
        server.send(&confirmation(id, 1, 32768)).await;
    })
    .await;
    assert!(
        text.contains("a confirmation of a channel that was not requested"),
        "{text}"
    );
    let text = session_error(async |server, id| {
        let refusal = message(OPEN_FAILURE, |out| {
            use tunneld_ssh::wire::Writer;
            out.u32(id);
            out.u32(1);
            out.string("");
            out.string("");
        });
        server.send(&refusal).await;
    })
    .await;
    assert!(
        text.contains("a refusal of a channel that was not requested"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn truncated_messages_end_the_session() {
    for number in 80..=98 {
        if matches!(number, REQUEST_SUCCESS | REQUEST_FAILURE | 83..=89) {
            continue;
        }
        let text = session_error(async |server, _id| {
            server.send(&[number, 0, 0]).await;
        })
        .await;
        assert!(text.contains("malformed"), "{number}: {text}");
    }
}

/// Packets of one byte cost little more than their bytes, and the reader gets every one.
#[tokio::test(start_paused = true)]
async fn packets_of_one_byte_are_all_delivered() {
    let script = async |server: &mut Server, id: u32| {
        for byte in 0..100_000u32 {
            server.send(&data(id, &[byte.to_be_bytes()[3]])).await;
        }
        server.send(&for_channel(EOF, id)).await;
    };
    channel(0, 32768, script, async |_session, mut channel| {
        let mut read = Vec::new();
        channel.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 100_000);
        assert!(
            (0..100_000u32)
                .zip(read)
                .all(|(n, byte)| n.to_be_bytes()[3] == byte)
        );
    })
    .await;
}

/// A server that never answers CLOSE uses up channel numbers, which are bounded, and disturbs no other channel.
#[tokio::test(start_paused = true)]
async fn an_unanswered_close_costs_one_channel_number() {
    let script = async |server: &mut Server| {
        for n in 0..50 {
            assert_eq!(server.confirm_open(1000, 32768).await, n);
            server.expect(CLOSE).await;
        }
    };
    play(script, async |session, _incoming| {
        for _ in 0..50 {
            drop(open(&session).await.unwrap());
        }
        sleep(Duration::from_secs(1)).await;
        assert!(!session.is_closed());
    })
    .await;
}
