//! Attacks over a real socket, with the kernel's buffers in between.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tunneld_ssh::client::{Options, Session};
use tunneld_ssh::{Config, Error};

use crate::peer::*;
use crate::play::*;

/// Time limit of a test.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `script` and `client` side by side over a TCP connection. Returns the client's result.
async fn play_over_tcp(
    options: Options,
    script: impl AsyncFnOnce(&mut Server),
    client: impl AsyncFnOnce(Session) -> Error,
) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut server = Server::new(stream);
        server.advance_to(When::Session, &Offer::default()).await;
        script(&mut server).await;
        server.until_disconnect().await;
    };
    let client = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut authenticator = connect(stream, Config::default(), options).await.unwrap();
        authenticator.none().await.unwrap();
        let (session, _incoming) = authenticator.into_session().unwrap();
        client(session).await
    };
    let both = async { tokio::join!(client, server) };
    timeout(TEST_TIMEOUT, both).await.unwrap().0
}

#[tokio::test]
async fn a_disconnect_before_a_reset_is_reported() {
    let script = async |server: &mut Server| {
        let disconnect = message(DISCONNECT, |out| {
            use tunneld_ssh::wire::Writer;
            out.u32(2);
            out.string("too many of you");
            out.string("");
        });
        server.send(&disconnect).await;
    };
    let error = play_over_tcp(Options::default(), script, async |session| {
        session.closed().await
    })
    .await;
    assert!(error.to_string().contains("too many of you"), "{error}");
}

#[tokio::test]
async fn a_frozen_server_is_detected_in_time_beside_a_writer() {
    let options = Options {
        keepalive: Some((Duration::from_millis(300), 3)),
        ..Options::default()
    };
    let script = async |server: &mut Server| {
        server.confirm_open(u32::MAX, 32768).await;
        // The server reads and sends nothing any more.
        std::future::pending::<()>().await;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut server = Server::new(stream);
        server.advance_to(When::Session, &Offer::default()).await;
        script(&mut server).await;
    };
    let client = async {
        use tokio::io::AsyncWriteExt;
        let stream = TcpStream::connect(address).await.unwrap();
        let mut authenticator = connect(stream, Config::default(), options).await.unwrap();
        authenticator.none().await.unwrap();
        let (session, _incoming) = authenticator.into_session().unwrap();
        let mut channel = open(&session).await.unwrap();
        let block = vec![0; 1 << 20];
        let start = tokio::time::Instant::now();
        while channel.write_all(&block).await.is_ok() {}
        (session.closed().await, start.elapsed())
    };
    let (error, lasted) = timeout(TEST_TIMEOUT, async {
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
async fn a_flood_ends_the_session() {
    let script = async |server: &mut Server| {
        server.flood(&global("x", true, b""), 100_000).await;
    };
    let error = play_over_tcp(Options::default(), script, async |session| {
        session.closed().await
    })
    .await;
    assert!(
        error.to_string().contains("more than 1000 requests"),
        "{error}"
    );
}
