//! Invalid packets (RFC 4253 §6).

use std::time::Duration;

use tunneld_ssh::wire::Writer;
use tunneld_ssh::{Config, Error};

use crate::peer::*;
use crate::play::*;

#[tokio::test(start_paused = true)]
async fn invalid_lengths_end_the_session_at_once() {
    for when in TIMES {
        for length in [0u32, 1, 4, 8, 13, 256 * 1024 + 1, 1 << 31, u32::MAX] {
            let end = attack(when, async |server| {
                server.raw(&length.to_be_bytes()).await;
                server.raw(&[0; 64]).await;
            })
            .await;
            end.says("a packet length of");
            assert_eq!(end.after, Duration::ZERO, "{when:?} {length}");
            assert!(end.disconnect.is_some(), "{when:?} {length}: no DISCONNECT");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_padding_ends_the_session() {
    for when in TIMES {
        // Multiples of the block size: with the length field before the first keys, without it under the keys.
        let size: u8 = if when == When::Kex { 28 } else { 32 };
        for padding in [0, 1, 3, size - 1, size, 255] {
            let end = attack(when, async |server| {
                let mut body = vec![IGNORE; usize::from(size)];
                body[0] = padding;
                let packet = server.peer.frame(&body);
                server.raw(&packet).await;
            })
            .await;
            end.says("a packet with wrong padding");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_packet_ends_the_session() {
    for when in [When::Auth, When::Session] {
        for at in [4, 10, 20, 30] {
            let end = attack(when, async |server| {
                let mut packet = server.peer.packet(&[IGNORE, 0, 0, 0, 0]);
                packet[at] ^= 1;
                server.raw(&packet).await;
            })
            .await;
            assert!(matches!(end.error, Error::Mac), "{end:?}");
            assert_eq!(end.disconnect.as_deref(), Some("5 corrupted packet"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_replayed_packet_ends_the_session() {
    for when in [When::Auth, When::Session] {
        let end = attack(when, async |server| {
            let packet = server.peer.packet(&[IGNORE, 0, 0, 0, 0]);
            server.raw(&packet).await;
            server.raw(&packet).await;
        })
        .await;
        assert!(matches!(end.error, Error::Mac), "{end:?}");
    }
}

async fn compressed(payload: &[u8], raw: bool) -> End {
    // Only the server compresses: the offer has no compression for the other direction.
    let config = Config {
        compression: vec!["none", "zlib@openssh.com"],
        ..Config::default()
    };
    let offer = Offer {
        compression: "zlib@openssh.com".into(),
        ..Offer::default()
    };
    attack_with(config, offer, When::Session, async |server| {
        if !raw {
            server.peer.deflate = Some(compressor());
        }
        server.send(payload).await;
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_zlib_bomb_ends_the_session() {
    let bomb = message(IGNORE, |out| out.string(vec![0; 32 << 20]));
    compressed(&bomb, false)
        .await
        .says("larger than any packet");
}

#[tokio::test(start_paused = true)]
async fn invalid_zlib_data_ends_the_session() {
    for payload in [&b"\x05"[..], b"no zlib at all", &[0; 40]] {
        compressed(payload, true)
            .await
            .says("compressed data that is ");
    }
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_of_256_kib_is_cut() {
    for when in TIMES {
        let text = "\x1b]0;owned\x07".repeat(26_000);
        let end = attack(when, async |server| {
            let disconnect = message(DISCONNECT, |out| {
                out.u32(11);
                out.string(&text);
                out.string("");
            });
            server.send(&disconnect).await;
        })
        .await;
        let Error::Disconnected { code: 11, text, .. } = &end.error else {
            panic!("{end:?}");
        };
        assert!(text.len() <= 1024 && text.starts_with('\x1b'));
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncated_disconnect_is_a_disconnect() {
    for when in TIMES {
        for payload in [
            &[DISCONNECT][..],
            &[DISCONNECT, 0, 0],
            &[DISCONNECT, 0, 0, 0, 2, 0xff],
        ] {
            let end = attack(when, async |server| {
                server.send(payload).await;
            })
            .await;
            assert!(matches!(end.error, Error::Disconnected { .. }), "{end:?}");
        }
    }
}
