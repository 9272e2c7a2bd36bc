//! A server that sends any messages in any order: nothing panics, the session ends or continues, and its memory stays
//! within its bounds.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::sleep;
use tunneld_ssh::connection::RemoteListen;
use tunneld_ssh::wire::Writer;

use crate::peer::*;
use crate::play::*;

/// One step of the server's script.
#[derive(Debug, Clone)]
enum Step {
    /// Sends a payload.
    Payload(Vec<u8>),
    /// Sends bytes that are not a packet.
    Raw(Vec<u8>),
    /// Sends a payload several times.
    Again(Vec<u8>, u8),
    /// Sends a KEXINIT.
    Rekey,
    /// Waits.
    Wait(u16),
}

/// A field of a message: numbers close to limits, and texts that the client knows.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let numbers = prop_oneof![
        6 => 0u32..4,
        1 => Just(8080),
        1 => Just(32768),
        1 => Just(u32::MAX),
        1 => any::<u32>(),
    ];
    let texts = prop_oneof![
        Just("localhost".to_owned()),
        Just("forwarded-tcpip".to_owned()),
        Just("session".to_owned()),
        Just("keepalive@openssh.com".to_owned()),
        Just("hostkeys-00@openssh.com".to_owned()),
        Just("server-sig-algs".to_owned()),
        ".{0,20}",
    ];
    prop_oneof![
        4 => numbers.prop_map(|number| number.to_be_bytes().to_vec()),
        3 => texts.prop_map(|text| {
            let mut out = Vec::new();
            out.string(text);
            out
        }),
        1 => any::<bool>().prop_map(|flag| vec![u8::from(flag)]),
        1 => proptest::collection::vec(any::<u8>(), 0..30),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        2 => 1u8..8,
        1 => 20u8..35,
        2 => 50u8..62,
        2 => 80u8..83,
        12 => 90u8..101,
        1 => any::<u8>(),
    ];
    let fields = proptest::collection::vec(field(), 0..7);
    (number, fields).prop_map(|(number, fields)| [&[number][..], &fields.concat()].concat())
}

/// A complete message about channels that may be open.
fn complete() -> impl Strategy<Value = Vec<u8>> {
    let id = 0u32..4;
    let number = prop_oneof![
        6 => 0u32..40_000,
        1 => Just(u32::MAX),
    ];
    prop_oneof![
        4 => (id.clone(), 0usize..5000).prop_map(|(id, length)| data(id, &vec![1; length])),
        2 => (id.clone(), number.clone()).prop_map(|(id, credit)| adjust(id, credit)),
        1 => id.clone().prop_map(|id| for_channel(EOF, id)),
        1 => id.clone().prop_map(|id| for_channel(CLOSE, id)),
        4 => (id.clone(), number.clone()).prop_map(|(id, window)| confirmation(id, window, 32768)),
        1 => id.clone().prop_map(|id| message(OPEN_FAILURE, |out| {
            out.u32(id);
            out.u32(1);
            out.string("no");
            out.string("");
        })),
        3 => (id.clone(), number).prop_map(|(id, window)| message(OPEN, |out| {
            out.string("forwarded-tcpip");
            out.u32(id);
            out.u32(window);
            out.u32(32768);
            out.string("localhost");
            out.u32(8080);
            out.string("192.0.2.1");
            out.u32(1);
        })),
        1 => (id, any::<bool>()).prop_map(|(id, wants)| message(CHANNEL_REQUEST, |out| {
            out.u32(id);
            out.string("exit-status");
            out.bool(wants);
        })),
        1 => any::<bool>().prop_map(|wants| global("keepalive@openssh.com", wants, b"")),
        1 => Just(vec![REQUEST_FAILURE]),
        3 => Just(vec![REQUEST_SUCCESS]),
        1 => Just(message(IGNORE, |out| out.string("x"))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => complete().prop_map(Step::Payload),
        4 => payload().prop_map(Step::Payload),
        6 => (complete(), any::<u8>()).prop_map(|(payload, times)| Step::Again(payload, times)),
        1 => Just(Step::Rekey),
        3 => any::<u16>().prop_map(Step::Wait),
        1 => proptest::collection::vec(any::<u8>(), 1..100).prop_map(Step::Raw),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        1 => Just(When::Start),
        1 => Just(When::Kex),
        2 => Just(When::Auth),
        6 => Just(When::Session),
    ]
}

/// Runs the steps until the client disconnects.
async fn perform(server: &mut Server, steps: Vec<Step>) {
    for step in steps {
        let alive = match step {
            Step::Payload(payload) => server.send(&payload).await,
            Step::Raw(bytes) => server.raw(&bytes).await,
            Step::Again(payload, times) => {
                server.flood(&payload, usize::from(times)).await == usize::from(times)
            }
            Step::Rekey => {
                server.send_kexinit(&Offer::default()).await;
                true
            }
            Step::Wait(ms) => {
                sleep(Duration::from_millis(u64::from(ms))).await;
                true
            }
        };
        if !alive {
            return;
        }
    }
}

/// Runs a client that opens, forwards, reads and writes against such a server.
async fn run(when: When, steps: Vec<Step>) {
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    let server = async {
        let mut server = Server::new(theirs);
        server.advance_to(when, &Offer::default()).await;
        perform(&mut server, steps).await;
        // It disconnects at the end, so that every run ends.
        sleep(Duration::from_secs(1)).await;
    };
    let client = async {
        let stream = tunneld_ssh::client::Stream::other(ours);
        let authenticator = connect(stream, Default::default(), Default::default()).await;
        let Ok(mut authenticator) = authenticator else {
            return;
        };
        if authenticator.none().await.is_err() {
            return;
        }
        assert!(authenticator.banner().len() <= 8 * 1024 + 3);
        let Ok((session, mut incoming)) = authenticator.into_session() else {
            return;
        };
        let listen = RemoteListen::Tcp {
            address: "localhost".into(),
            port: 8080,
        };
        let accept_channels = async {
            while let Some(one) = incoming.recv().await {
                assert_eq!((&one.listen, one.bound_port), (&listen, 8080));
                assert!(one.originator.len() <= 1024 + 16);
                let Ok(channel) = one.channel.accept() else {
                    break;
                };
                let (mut reader, _writer) = channel.split();
                while let Ok(Some(bytes)) = reader.read_chunk().await {
                    assert!(!bytes.is_empty());
                }
            }
        };
        let open_channels = async {
            for _ in 0..3 {
                let Ok(channel) = open(&session).await else {
                    continue;
                };
                let (mut reader, mut writer) = channel.split();
                use tokio::io::AsyncWriteExt;
                let (_, _) = tokio::join!(writer.write_all(b"hello"), reader.read_chunk());
            }
        };
        tokio::select! {
            _ = session.closed() => {}
            _ = async { tokio::join!(accept_channels, open_channels, session.request_forward(&listen)) } => {
                session.closed().await;
            }
        }
    };
    let both = async { tokio::join!(client, server) };
    tokio::time::timeout(Duration::from_secs(24 * 3600), both)
        .await
        .expect("the session ends");
}

#[test]
fn any_messages_in_any_order_stay_within_bounds() {
    // Taken before the macro: it allocates the steps of each case.
    let turn = crate::Turn::take();
    let cases = ProptestConfig::with_cases(400);
    let steps = proptest::collection::vec(step(), 1..60);
    proptest!(cases, |(when in when(), steps in steps)| {
        crate::within(&turn, 16 * 1024 * crate::KIB, run(when, steps));
    });
}
