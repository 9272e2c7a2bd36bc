//! The memory that a hostile server can make the client hold, measured at the allocator. The figures include the
//! scripted server's own buffers, so that the client's share is less than what is asserted.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

#[path = "../hostile/messages.rs"]
mod messages;
#[path = "../peer/mod.rs"]
mod peer;
#[path = "../hostile/play.rs"]
mod play;
mod random;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peak_alloc::PeakAlloc;
use tokio::time::sleep;
use tunneld_ssh::auth::AuthResult;
use tunneld_ssh::client::Options;
use tunneld_ssh::connection::{ConnectionConfig, RemoteListen, WindowLimits};
use tunneld_ssh::wire::Writer;
use tunneld_ssh::{Config, Error};

use peer::*;
use play::*;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Held by the running test: all tests share the allocator.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The right to allocate and to measure. Under plain `cargo test` the tests are threads of one process, and memory that
/// one of them allocates or frees counts in the figures of another. Each test takes its turn in its first line, before
/// it builds its packets, and gives it back after all its values are dropped.
struct Turn(#[expect(dead_code, reason = "held until the test ends")] MutexGuard<'static, ()>);

impl Turn {
    /// Waits until no other test runs.
    fn take() -> Self {
        // A test that failed has given its memory back: the next one can measure.
        Self(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

const KIB: usize = 1024;

/// Runs `test` and asserts that it never holds more than `bound` bytes beyond what was allocated before.
fn within(_turn: &Turn, bound: usize, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    // Allocations that the libraries make once do not count.
    runtime.block_on(async { drop(attack(When::Session, leave).await) });
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    runtime.block_on(test);
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    eprintln!("at most {} KiB, of {} KiB", peak / KIB, bound / KIB);
    assert!(
        peak <= bound,
        "{} KiB allocated, {} KiB allowed",
        peak / KIB,
        bound / KIB
    );
}

async fn leave(server: &mut Server) {
    let disconnect = message(DISCONNECT, |out| {
        out.u32(11);
        out.string("");
        out.string("");
    });
    server.send(&disconnect).await;
}

/// Runs an attack that must not make the client hold more than `bound` bytes.
fn attack_within(turn: &Turn, bound: usize, when: When, script: impl AsyncFnOnce(&mut Server)) {
    within(turn, bound, async {
        attack(when, script).await;
    });
}

#[test]
fn a_plain_session() {
    let turn = Turn::take();
    attack_within(&turn, 512 * KIB, When::Session, leave);
}

#[test]
fn a_packet_that_announces_2_gib() {
    let turn = Turn::take();
    for when in TIMES {
        attack_within(&turn, 512 * KIB, when, async |server| {
            server.raw(&(1u32 << 31).to_be_bytes()).await;
            server.raw(&[0; 1000]).await;
        });
    }
}

#[test]
fn the_largest_packet_without_its_end() {
    let turn = Turn::take();
    let part = vec![0; 128 * KIB];
    for when in TIMES {
        attack_within(&turn, 1024 * KIB, when, async |server| {
            let length: u32 = if when == When::Kex {
                256 * 1024 - 4
            } else {
                256 * 1024
            };
            server.raw(&length.to_be_bytes()).await;
            server.raw(&part).await;
        });
    }
}

#[test]
fn lines_before_the_identification() {
    let turn = Turn::take();
    let line = [&[b'a'; 8000][..], b"\n"].concat();
    attack_within(&turn, 768 * KIB, When::Start, async |server| {
        while server.raw(&line).await {}
    });
}

#[test]
fn a_kexinit_of_256_kib() {
    let turn = Turn::take();
    let offer = Offer {
        kex: "x,".repeat(125_000),
        ..Offer::default()
    };
    attack_within(&turn, 2048 * KIB, When::Kex, async |server| {
        server.send_kexinit(&offer).await
    });
}

#[test]
fn a_stream_while_the_host_key_is_checked() {
    let turn = Turn::take();
    within(&turn, 768 * KIB, async {
        let (ours, theirs) = tokio::io::duplex(64 * KIB);
        let mut server = Server::new(theirs);
        let scene = async {
            server.identify().await;
            server.send_kexinit(&Offer::default()).await;
            server.peer.client_kexinit = server.expect_keeping_others(KEXINIT).await;
            let init = server.expect_keeping_others(KEX_INIT).await;
            let (reply, _keys) = server.peer.reply(&init);
            server.send(&reply).await;
            let block = [0x55; 1024];
            for _ in 0..64 * 1024 {
                if !server.raw(&block).await {
                    break;
                }
            }
        };
        let client = tunneld_ssh::client::handshake(
            tunneld_ssh::client::Stream::other(ours),
            Default::default(),
            Options::default(),
            "user",
            |_| async {
                sleep(Duration::from_secs(3600)).await;
                true
            },
        );
        let (authenticator, ()) = tokio::join!(client, scene);
        assert!(authenticator.is_err());
    });
}

fn banner() -> Vec<u8> {
    message(BANNER, |out| {
        out.string([b'x'; 100_000]);
        out.string("");
    })
}

#[test]
fn ten_megabytes_of_banners() {
    let turn = Turn::take();
    let packet = banner();
    within(&turn, 2048 * KIB, async {
        let script = async |server: &mut Server| {
            server.accept_service().await;
            server.flood(&packet, 100).await;
        };
        login(script, async |mut authenticator| {
            let _ = authenticator.none().await;
        })
        .await;
    });
}

#[test]
fn banners_while_a_user_types() {
    let turn = Turn::take();
    let packet = banner();
    within(&turn, 2048 * KIB, async {
        let script = async |server: &mut Server| {
            server.accept_service().await;
            let question = message(INFO_REQUEST, |out| {
                out.string("");
                out.string("");
                out.string("");
                out.u32(1);
                out.string("Password:");
                out.bool(false);
            });
            server.send(&question).await;
            server.flood(&packet, 1000).await;
        };
        login(script, async |mut authenticator| {
            let asked = authenticator.keyboard_interactive("").await;
            assert!(matches!(asked, Ok(AuthResult::InfoRequest(_))));
            authenticator.closed().await;
        })
        .await;
    });
}

#[test]
fn a_zlib_bomb() {
    let turn = Turn::take();
    // Sealed without compression: it is the first packet that the client takes for compressed.
    let bomb = message(IGNORE, |out| out.string(vec![0; 64 << 20]));
    let mut packed = Vec::with_capacity(1 << 20);
    let packing = compressor().compress_vec(&bomb, &mut packed, flate2::FlushCompress::Sync);
    packing.unwrap();
    drop(bomb);
    assert!(packed.len() < 100_000);
    within(&turn, 1536 * KIB, async {
        let config = Config {
            compression: vec!["none", "zlib@openssh.com"],
            ..Config::default()
        };
        let offer = Offer {
            compression: "zlib@openssh.com".into(),
            ..Offer::default()
        };
        let end = attack_with(config, offer, When::Session, async |server| {
            server.send(&packed).await;
        })
        .await;
        end.says("larger than any packet");
    });
}

#[test]
fn floods() {
    let turn = Turn::take();
    for payload in [
        global("x", true, b""),
        global("hostkeys-00@openssh.com", false, &[0; 240_000]),
        message(DEBUG, |out| {
            out.bool(true);
            out.string([0x1b; 30_000]);
            out.string("");
        }),
        message(OPEN, |out| {
            out.string("x11");
            out.raw(&[0; 12]);
        }),
        message(DISCONNECT, |out| {
            out.u32(2);
            out.string([0x1b; 256_000]);
            out.string("");
        }),
    ] {
        attack_within(&turn, 2048 * KIB, When::Session, async |server| {
            server.flood(&payload, 100_000).await;
        });
    }
}

#[test]
fn unread_answers() {
    let turn = Turn::take();
    within(&turn, 14 * 1024 * KIB, async {
        let (ours, theirs) = tokio::io::duplex(16 * KIB);
        let scene = async {
            let mut server = Server::new(theirs);
            server.advance_to(When::Session, &Offer::default()).await;
            let request = global("x", true, b"");
            while server.flood(&request, 900).await == 900 {
                sleep(Duration::from_secs(1)).await;
            }
        };
        let client = async {
            let stream = tunneld_ssh::client::Stream::other(ours);
            let options = Options::default();
            let mut authenticator = connect(stream, Config::default(), options).await.unwrap();
            authenticator.none().await.unwrap();
            let (session, _incoming) = authenticator.into_session().unwrap();
            assert!(matches!(session.closed().await, Error::Protocol(_)));
        };
        tokio::join!(client, scene);
    });
}

#[test]
fn unaccepted_channels_of_a_forward() {
    let turn = Turn::take();
    within(&turn, 1024 * KIB, async {
        let script = async |server: &mut Server| {
            server.expect(GLOBAL_REQUEST).await;
            server.send(&[REQUEST_SUCCESS]).await;
            let open = message(OPEN, |out| {
                out.string("forwarded-tcpip");
                out.u32(1);
                out.u32(1 << 20);
                out.u32(32768);
                out.string("localhost");
                out.u32(8080);
                out.string("");
                out.u32(1);
            });
            for n in 0..10_000 {
                server.send(&open).await;
                if n >= 128 {
                    server.expect(OPEN_FAILURE).await;
                }
            }
        };
        play(script, async |session, _incoming| {
            let listen = RemoteListen::Tcp {
                address: "localhost".into(),
                port: 8080,
            };
            session.request_forward(&listen).await.unwrap();
            sleep(Duration::from_secs(60)).await;
        })
        .await;
    });
}

fn small_windows() -> Options {
    let window = WindowLimits {
        initial: 256 * 1024,
        max: 256 * 1024,
        session_total: 1 << 30,
    };
    Options {
        connection: ConnectionConfig {
            window,
            ..ConnectionConfig::default()
        },
        ..Options::default()
    }
}

#[test]
fn unread_packets_of_one_byte() {
    let turn = Turn::take();
    within(&turn, 1024 * KIB, async {
        let script = async |server: &mut Server| {
            let id = server.confirm_open(0, 32768).await;
            let before = ALLOCATOR.current_usage();
            for n in 0..256 * KIB {
                server.send(&data(id, &[n as u8])).await;
            }
            // The client has received all of it.
            sleep(Duration::from_secs(1)).await;
            let kept = ALLOCATOR.current_usage().saturating_sub(before);
            eprintln!("{} KiB for 256 KiB in packets of one byte", kept / KIB);
            assert!(
                kept <= 256 * KIB * 11 / 10 + 128 * KIB,
                "{} KiB",
                kept / KIB
            );
        };
        play_with(
            Config::default(),
            small_windows(),
            script,
            async |session, _incoming| {
                let _channel = open(&session).await.unwrap();
                sleep(Duration::from_secs(60)).await;
            },
        )
        .await;
    });
}

const WINDOW: usize = 2 << 20;

/// Twenty stalled readers with full windows. After each of their chunks, `live` chunks arrive for a reader that reads.
fn stopped_readers(turn: &Turn, chunk: usize, live: usize) {
    let script = async |server: &mut Server| {
        let mut ids = Vec::new();
        for _ in 0..20 {
            ids.push(server.confirm_open(0, 32768).await);
        }
        let reader = server.confirm_open(0, 32768).await;
        let block = vec![3; 32768];
        let mut sent = 0;
        for _ in 0..WINDOW / chunk {
            for id in &ids {
                server.send(&data(*id, &block[..chunk])).await;
                for _ in 0..live {
                    server.send(&data(reader, &block)).await;
                    sent += block.len();
                    if sent >= WINDOW / 2 {
                        server.expect(ADJUST).await;
                        sent = 0;
                    }
                }
            }
        }
    };
    within(turn, 20 * WINDOW * 11 / 10, async {
        play(script, async |session, _incoming| {
            let mut stopped = Vec::new();
            for _ in 0..20 {
                stopped.push(open(&session).await.unwrap());
            }
            let (mut reader, _writer) = open(&session).await.unwrap().split();
            let reads = async { while let Ok(Some(_)) = reader.read_chunk().await {} };
            let _ = tokio::time::timeout(Duration::from_secs(60), reads).await;
            assert!(!session.is_closed());
        })
        .await;
    });
}

#[test]
fn twenty_stopped_readers_cost_their_windows() {
    let turn = Turn::take();
    stopped_readers(&turn, 32768, 0);
}

/// A kept payload must not keep the read buffer that it was received in, which holds other channels' bytes.
#[test]
fn stopped_readers_beside_a_live_one_cost_their_windows() {
    let turn = Turn::take();
    for chunk in [1024, 4096, 16384, 32768] {
        stopped_readers(&turn, chunk, if chunk < 16384 { 1 } else { 3 });
    }
}

#[test]
fn memory_after_sessions_have_ended() {
    let turn = Turn::take();
    within(&turn, 1024 * KIB, async {
        let mut first = 0;
        for n in 0..60 {
            let end = attack(When::Session, async |server| {
                server.send(&[255]).await;
                server.raw(&[0; 64]).await;
            })
            .await;
            drop(end);
            if n == 10 {
                first = ALLOCATOR.current_usage();
            }
        }
        let grown = ALLOCATOR.current_usage().saturating_sub(first);
        assert!(grown < 16 * KIB, "{grown} bytes after fifty sessions");
    });
}
