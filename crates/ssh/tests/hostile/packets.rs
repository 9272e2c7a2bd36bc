//! Packets that are none: RFC 4253 §6.

use std::time::Duration;

use tunneld_ssh::wire::Writer;
use tunneld_ssh::{Config, Error};

use crate::peer::*;
use crate::play::*;

#[tokio::test(start_paused = true)]
async fn lengths_that_no_packet_has_end_it_at_once() {
    for when in TIMES {
        for length in [0u32, 1, 4, 8, 13, 256 * 1024 + 1, 1 << 31, u32::MAX] {
            let end = attack(when, async |server| {
                server.raw(&length.to_be_bytes()).await;
                server.raw(&[0; 64]).await;
            })
            .await;
            end.says("a packet length of");
            assert_eq!(end.after, Duration::ZERO, "{when:?} {length}");
            assert!(end.goodbye.is_some(), "{when:?} {length}: told");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_padding_ends_it() {
    for when in TIMES {
        // Whole blocks, with the length field in the clear and without it under the keys.
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
async fn a_damaged_packet_ends_it() {
    for when in [When::Auth, When::Session] {
        for at in [4, 10, 20, 30] {
            let end = attack(when, async |server| {
                let mut packet = server.peer.packet(&[IGNORE, 0, 0, 0, 0]);
                packet[at] ^= 1;
                server.raw(&packet).await;
            })
            .await;
            assert!(matches!(end.error, Error::Mac), "{end:?}");
            assert_eq!(end.goodbye.as_deref(), Some("5 corrupted packet"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_packet_again_ends_it() {
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
    // Only from the server: the offer has none for the other way.
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
async fn a_zlib_bomb_ends_it() {
    let bomb = message(IGNORE, |out| out.string(vec![0; 32 << 20]));
    compressed(&bomb, false)
        .await
        .says("larger than any packet");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_zlib_ends_it() {
    for payload in [&b"\x05"[..], b"no zlib at all", &[0; 40]] {
        compressed(payload, true)
            .await
            .says("compressed data that is ");
    }
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_of_256_kib_is_cut() {
    for when in TIMES {
        let text = "\x1b]0;owned\x07".repeat(26_000);
        let end = attack(when, async |server| {
            let goodbye = message(DISCONNECT, |out| {
                out.u32(11);
                out.string(&text);
                out.string("");
            });
            server.send(&goodbye).await;
        })
        .await;
        let Error::Disconnected { code: 11, text, .. } = &end.error else {
            panic!("{end:?}");
        };
        assert!(text.len() <= 1024 && text.starts_with('\x1b'));
    }
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_cut_short_is_one_too() {
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
