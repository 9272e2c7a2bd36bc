//! How sessions and channels start and end, and what every waiting task gets.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunneld_ssh::auth::AuthResult;
use tunneld_ssh::client::{OpenError, Options, RequestError};
use tunneld_ssh::connection::RemoteListen;
use tunneld_ssh::{Config, Error};

use super::lab::{Sshd, Target, TargetBehavior, keygen, with_keepalive};
use super::streams::open;

#[tokio::test]
async fn logins() {
    let (sshd, stream) = Sshd::start("Banner /etc/hostname").await;
    let mut authenticator = sshd
        .connect(stream, Config::default(), Options::default())
        .await
        .unwrap();
    let AuthResult::Failure { remaining, partial } = authenticator.none().await.unwrap() else {
        panic!("no failure");
    };
    assert!(remaining.contains(&"publickey".to_owned()) && !partial);
    assert!(!authenticator.banner().is_empty());
    keygen(sshd.home.path(), "stranger", "rsa");
    assert!(matches!(
        sshd.log_in(&mut authenticator, "stranger").await,
        AuthResult::Failure { .. }
    ));
    assert!(matches!(
        authenticator.password("wrong", None).await.unwrap(),
        AuthResult::Failure { .. }
    ));
    assert_eq!(
        sshd.log_in(&mut authenticator, "other").await,
        AuthResult::Success
    );
    let (session, _) = authenticator.into_session().unwrap();
    assert!(session.ping(Duration::from_secs(5)).await.is_ok());
    assert!(session.info().ident.contains("OpenSSH"));
    session.close().await;
    assert!(matches!(session.closed().await, Error::Disconnected { .. }));
}

#[tokio::test]
async fn too_many_failures_are_a_disconnect_and_not_a_refusal() {
    let (sshd, stream) = Sshd::start("MaxAuthTries 2").await;
    let mut authenticator = sshd
        .connect(stream, Config::default(), Options::default())
        .await
        .unwrap();
    let error = loop {
        match authenticator.password("wrong", None).await {
            Ok(AuthResult::Failure { .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::Disconnected { code: 2, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_rejected_host_key_gets_no_login() {
    let (sshd, stream) = Sshd::start("").await;
    let config = std::sync::Arc::new(Config::default());
    let rejected =
        tunneld_ssh::client::handshake(stream, config, Options::default(), "root", |_| async {
            false
        })
        .await;
    assert!(matches!(rejected, Err(Error::HostKeyRejected)));
    assert!(!sshd.log().contains("userauth-request"));
}

#[tokio::test]
async fn a_refused_open_has_code_and_text() {
    let (_sshd, session, _) = Sshd::session(
        "PermitOpen 127.0.0.1:1",
        Config::default(),
        Options::default(),
    )
    .await;
    let from = || ("127.0.0.1".to_owned(), 1);
    for (port, expect) in [(1, 2), (2, 1)] {
        let error = session.open_direct_tcpip("127.0.0.1", port, from()).await;
        let Err(OpenError::Refused { code, text }) = error else {
            panic!("port {port}: {error:?}");
        };
        assert_eq!(code, expect, "{text}");
        assert!(!text.is_empty());
    }
}

#[tokio::test]
async fn unix_sockets_in_both_directions() {
    let (sshd, session, mut incoming) =
        Sshd::session("", Config::default(), Options::default()).await;
    let path = sshd.home.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut channel = session
        .open_direct_streamlocal(path.to_str().unwrap())
        .await
        .unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    channel.write_all(b"over").await.unwrap();
    let mut four = [0; 4];
    far.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"over");

    let path = sshd.home.path().join("remote");
    let listen = RemoteListen::Unix {
        path: path.to_str().unwrap().into(),
    };
    assert_eq!(session.request_forward(&listen).await.unwrap(), 0);
    let mut near = tokio::net::UnixStream::connect(&path).await.unwrap();
    let arrived = incoming.recv().await.unwrap();
    assert_eq!(arrived.listen, listen);
    let mut channel = arrived.channel.accept().unwrap();
    near.write_all(b"back").await.unwrap();
    channel.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"back");
}

#[tokio::test]
async fn a_remote_forward_from_request_to_cancel() {
    let (_sshd, session, mut incoming) =
        Sshd::session("", Config::default(), Options::default()).await;
    let listen = RemoteListen::Tcp {
        address: "127.0.0.1".into(),
        port: 0,
    };
    let port = session.request_forward(&listen).await.unwrap();
    assert_ne!(port, 0);
    let mut near = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let arrived = incoming.recv().await.unwrap();
    assert_eq!((&arrived.listen, arrived.bound_port), (&listen, port));
    assert_eq!(arrived.originator, near.local_addr().unwrap().to_string());
    let mut channel = arrived.channel.accept().unwrap();
    near.write_all(b"hello").await.unwrap();
    near.shutdown().await.unwrap();
    let mut all = Vec::new();
    channel.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"hello");
    channel.write_all(b"bye").await.unwrap();
    channel.shutdown().await.unwrap();
    let mut all = Vec::new();
    near.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"bye");
    drop(channel);

    let mut refused = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    drop(incoming.recv().await.unwrap());
    assert_eq!(refused.read(&mut [0]).await.unwrap_or(0), 0);

    session.cancel_forward(&listen).await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    assert!(matches!(
        session.cancel_forward(&listen).await,
        Err(RequestError::NotListening)
    ));
    assert_eq!(session.violations(), 0);
}

#[tokio::test]
async fn a_killed_server_wakes_every_waiting_task() {
    let (sshd, session, _) = Sshd::session("", Config::default(), Options::default()).await;
    let stall = Target::start(TargetBehavior::Stall).await;
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let (mut reader, mut writer) = open(&session, &stall).await.split();
        waiting.spawn(async move { reader.read_chunk().await.map(|_| ()) });
        waiting.spawn(async move {
            let block = vec![0; 64 * 1024];
            loop {
                writer.write_all(&block).await?;
            }
        });
    }
    let closed = open(&session, &stall).await.split().1;
    // The writers have used up their windows once the line is quiet.
    while !is_quiet(&session).await {}
    sshd.signal("KILL");
    while let Some(done) = waiting.join_next().await {
        let error = done.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
    closed.closed().await;
    assert!(session.is_closed());
    assert!(matches!(session.closed().await, Error::Eof | Error::Io(_)));
    let late = session.open_direct_streamlocal("/x").await;
    assert!(matches!(late, Err(OpenError::SessionEnded(_))));
}

/// Whether a short round trip shows that no bulk data is in flight.
async fn is_quiet(session: &tunneld_ssh::client::Session) -> bool {
    session.ping(Duration::from_secs(5)).await.unwrap() < Duration::from_millis(5)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_detected() {
    for load in ["idle", "uploads", "stopped reader"] {
        let alive = with_keepalive(Duration::from_millis(500), 3);
        let (sshd, session, _) = Sshd::session("", Config::default(), alive).await;
        let check = Target::start(TargetBehavior::Check).await;
        let source = Target::start(TargetBehavior::Send(1 << 30)).await;
        let mut writers = JoinSet::new();
        let mut stopped = Vec::new();
        match load {
            "uploads" => {
                for _ in 0..16 {
                    let mut channel = open(&session, &check).await;
                    writers.spawn(async move {
                        let block = vec![0; 64 * 1024];
                        while channel.write_all(&block).await.is_ok() {}
                    });
                }
            }
            "stopped reader" => stopped.push(open(&session, &source).await),
            _ => {}
        }
        assert!(session.ping(Duration::from_secs(5)).await.is_ok());
        sshd.signal("STOP");
        let frozen = Instant::now();
        let why = session.closed().await;
        let took = frozen.elapsed();
        sshd.signal("CONT");
        assert!(matches!(why, Error::DeadPeer(_)), "{load}: {why}");
        assert!(
            took > Duration::from_millis(1000) && took < Duration::from_millis(2500),
            "{load}: {took:?}"
        );
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
    }
}
