//! The client against russh's server in memory, with a paused clock: days pass in milliseconds.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ::russh::keys::ssh_key::{Algorithm, PrivateKey};
use ::russh::server::{self, Auth, ChannelOpenHandle, Handler, Msg};
use ::russh::{Channel as Theirs, ChannelOpenFailure, Preferred, kex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tunneld_ssh::auth::AuthResult;
use tunneld_ssh::client::{self, IncomingChannels, OpenError, Options, Session, Stream};
use tunneld_ssh::connection::RemoteListen;
use tunneld_ssh::{Config, Error};

use super::lab::Pattern;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MB: u64 = 1 << 20;

/// Accepts every user. Port 7 echoes, every other port is refused. A forward gets one connection after a second.
#[derive(Default)]
struct EchoServer {
    tasks: JoinSet<()>,
}

impl Handler for EchoServer {
    type Error = ::russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Theirs<Msg>,
        _host: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.tasks.spawn(async move {
            if port != 7 {
                return reply.reject(ChannelOpenFailure::ConnectFailed).await;
            }
            reply.accept().await;
            let (mut from, mut to) = tokio::io::split(channel.into_stream());
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut server::Session,
    ) -> Result<bool, Self::Error> {
        *port = 4000;
        let (handle, address) = (session.handle(), address.to_owned());
        self.tasks.spawn(async move {
            // The answer to the request has to be sent before the channel is opened.
            sleep(Duration::from_secs(1)).await;
            let opened = handle.channel_open_forwarded_tcpip(address, 4000, "10.0.0.9", 5);
            let mut stream = opened.await.unwrap().into_stream();
            stream.write_all(b"over").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        Ok(true)
    }
}

async fn session(config: Config, options: Options) -> (Session, IncomingChannels, JoinSet<()>) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
    let theirs = server::Config {
        keys: vec![key],
        auth_rejection_time: Duration::ZERO,
        inactivity_timeout: None,
        preferred: Preferred {
            kex: Cow::Borrowed(&[
                kex::MLKEM768X25519_SHA256,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
            ]),
            ..Preferred::default()
        },
        ..server::Config::default()
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let running = server::run_stream(Arc::new(theirs), far, EchoServer::default());
        let _ = running.await.unwrap().await;
    });
    let judge = |_| std::future::ready(true);
    let authenticator = client::handshake(
        Stream::other(near),
        Arc::new(config),
        options,
        "anyone",
        judge,
    );
    let mut authenticator = authenticator.await.unwrap();
    assert_eq!(authenticator.none().await.unwrap(), AuthResult::Success);
    let (session, incoming) = authenticator.into_session().unwrap();
    (session, incoming, tasks)
}

fn from() -> (String, u16) {
    ("127.0.0.1".into(), 1)
}

/// Sends `count` bytes of the pattern and checks that they are echoed.
async fn echo(session: &Session, count: u64) {
    let opened = session.open_direct_tcpip("target", 7, from()).await;
    let (mut reader, mut writer) = opened.unwrap().split();
    let writes = async {
        let (mut pattern, mut left) = (Pattern::default(), count);
        let mut buffer = vec![0; 48 * 1024];
        while left > 0 {
            let some = buffer.len().min(left as usize);
            pattern.fill(&mut buffer[..some]);
            writer.write_all(&buffer[..some]).await.unwrap();
            left -= some as u64;
        }
        writer.shutdown().await.unwrap();
    };
    let reads = async {
        let mut pattern = Pattern::default();
        while let Some(bytes) = reader.read_chunk().await.unwrap() {
            assert!(pattern.check(&bytes), "wrong at about {}", pattern.count());
        }
        assert_eq!(pattern.count(), count);
    };
    tokio::join!(writes, reads);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_echoed_and_a_closed_port_is_refused() {
    let (session, _incoming, _far) = session(Config::default(), Options::default()).await;
    assert_eq!(session.info().negotiated.kex, "mlkem768x25519-sha256");
    let (one, two) = (echo(&session, 4 * MB), echo(&session, 4 * MB));
    tokio::join!(one, two);
    let shut = session.open_direct_tcpip("target", 8, from()).await;
    assert!(
        matches!(shut, Err(OpenError::Refused { code: 2, .. })),
        "{shut:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_quiet_session_lasts_for_days_with_hourly_rekeys() {
    let config = Config {
        rekey_time: Some(Duration::from_secs(3600)),
        ..Config::default()
    };
    let (session, _incoming, _far) = session(config, Options::default()).await;
    for _ in 0..3 {
        sleep(DAY).await;
        assert!(!session.is_closed());
        echo(&session, MB).await;
    }
    assert!(session.rtt().is_some());
    assert_eq!(session.violations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_connection_arrives() {
    let (session, mut incoming, _far) = session(Config::default(), Options::default()).await;
    let listen = RemoteListen::Tcp {
        address: "localhost".into(),
        port: 0,
    };
    assert_eq!(session.request_forward(&listen).await.unwrap(), 4000);
    let arrived = incoming.recv().await.unwrap();
    assert_eq!(
        (&arrived.listen, arrived.originator.as_str()),
        (&listen, "10.0.0.9:5")
    );
    let mut all = Vec::new();
    let mut channel = arrived.channel.accept().unwrap();
    channel.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"over");
}

/// russh's server stalls all channels as soon as one channel's reader stops reading its echo.
#[tokio::test(start_paused = true)]
async fn a_stalled_server_is_detected_and_every_task_wakes() {
    let (session, _incoming, _far) = session(Config::default(), Options::default()).await;
    let mut channels = Vec::new();
    for _ in 0..4 {
        let opened = session.open_direct_tcpip("target", 7, from()).await;
        channels.push(opened.unwrap().split());
    }
    let start = Instant::now();
    let mut waiting = JoinSet::new();
    for (n, (mut reader, mut writer)) in channels.into_iter().enumerate() {
        waiting.spawn(async move {
            if n % 2 == 0 {
                let block = vec![0; 64 * 1024];
                while writer.write_all(&block).await.is_ok() {}
                let _reader = reader;
            } else {
                assert!(reader.read_chunk().await.is_err());
            }
        });
    }
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
    let why = session.closed().await;
    assert!(matches!(why, Error::DeadPeer(_)), "{why}");
    let lasted = start.elapsed().as_secs();
    assert!((45..=60).contains(&lasted), "{lasted} s");
}
