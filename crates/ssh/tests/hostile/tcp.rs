//! The same tricks over a real socket, where the kernel's buffers stand between.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tunneld_ssh::client::{Options, Session};
use tunneld_ssh::{Config, Error};

use crate::peer::*;
use crate::play::*;

/// No scene needs so long.
const PATIENCE: Duration = Duration::from_secs(60);

async fn scene(
    options: Options,
    script: impl AsyncFnOnce(&mut Server),
    client: impl AsyncFnOnce(Session) -> Error,
) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut server = Server::new(stream);
        server.upto(When::Session, &Offer::default()).await;
        script(&mut server).await;
        server.end().await;
    };
    let client = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut connected = connect(stream, Config::default(), options).await.unwrap();
        connected.none().await.unwrap();
        let (session, _incoming) = connected.into_session().unwrap();
        client(session).await
    };
    let both = async { tokio::join!(client, server) };
    timeout(PATIENCE, both).await.unwrap().0
}

#[tokio::test]
async fn a_goodbye_is_heard_though_the_socket_is_reset() {
    let script = async |server: &mut Server| {
        let goodbye = message(DISCONNECT, |out| {
            use tunneld_ssh::wire::Writer;
            out.u32(2);
            out.string("too many of you");
            out.string("");
        });
        server.send(&goodbye).await;
    };
    let error = scene(Options::default(), script, async |session| {
        session.closed().await
    })
    .await;
    assert!(error.to_string().contains("too many of you"), "{error}");
}

#[tokio::test]
async fn a_frozen_server_is_dead_in_time_while_a_writer_pushes() {
    let options = Options {
        keepalive: Some((Duration::from_millis(300), 3)),
        ..Options::default()
    };
    let script = async |server: &mut Server| {
        server.confirm(u32::MAX, 32768).await;
        // It stands still: nothing is read, nothing is said.
        std::future::pending::<()>().await;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut server = Server::new(stream);
        server.upto(When::Session, &Offer::default()).await;
        script(&mut server).await;
    };
    let client = async {
        use tokio::io::AsyncWriteExt;
        let stream = TcpStream::connect(address).await.unwrap();
        let mut connected = connect(stream, Config::default(), options).await.unwrap();
        connected.none().await.unwrap();
        let (session, _incoming) = connected.into_session().unwrap();
        let mut channel = open(&session).await.unwrap();
        let block = vec![0; 1 << 20];
        let start = tokio::time::Instant::now();
        while channel.write_all(&block).await.is_ok() {}
        (session.closed().await, start.elapsed())
    };
    let (error, lasted) = timeout(PATIENCE, async {
        tokio::select! {
            ended = client => ended,
            () = server => unreachable!(),
        }
    })
    .await
    .unwrap();
    assert!(
        matches!(error, Error::DeadPeer(_) | Error::Io(_)),
        "{error:?}"
    );
    assert!(lasted < Duration::from_secs(10), "{lasted:?}");
}

#[tokio::test]
async fn a_flood_ends_it() {
    let script = async |server: &mut Server| {
        server.flood(&global("x", true, b""), 100_000).await;
    };
    let error = scene(Options::default(), script, async |session| {
        session.closed().await
    })
    .await;
    assert!(
        error.to_string().contains("more than 1000 requests"),
        "{error}"
    );
}
