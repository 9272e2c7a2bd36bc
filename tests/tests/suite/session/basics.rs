//! A session against sshd: channels, remote forwards, and the ways a session ends.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunneld::failure::FailureKind;
use tunneld::session::OpenError;
use tunneld_config::addr::{BindAddr, ListenAddr};
use tunneld_tests::faulty_link::FaultyLink;
use tunneld_tests::payload::{self, MIB};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::{LONG, within};

use super::{connect, route, route_at};

#[tokio::test]
async fn a_key_file_logs_in_and_channels_carry_bytes() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let session = connect(&route(&server)).await?.session;
    let info = session.info();
    assert!(info.server.starts_with("SSH-2.0-OpenSSH"), "{info:?}");
    assert!(info.host_key.starts_with("ssh-ed25519 SHA256:"), "{info:?}");
    assert!(
        info.auth.starts_with("publickey ED25519 SHA256:"),
        "{info:?}"
    );
    assert!(
        info.cipher.contains("gcm") && info.mac.is_none(),
        "{info:?}"
    );

    let data = payload::random(7, 4 * MIB);
    let open = || session.open_direct_tcpip("127.0.0.1", target.port(), None);
    let (one, two) = tokio::join!(
        async { payload::exchange(open().await.unwrap(), &data).await },
        async { payload::exchange(open().await.unwrap(), &data).await },
    );
    payload::same(&data, &one?)?;
    payload::same(&data, &two?)?;
    assert!(session.ping(LONG).await? < LONG);
    assert!(session.rtt().is_some());

    session.close().await;
    assert!(session.is_closed());
    let lost = open().await.err().unwrap();
    assert!(matches!(lost, OpenError::SessionLost(_)), "{lost:?}");
    Ok(())
}

#[tokio::test]
async fn a_channel_to_a_unix_socket_carries_bytes() -> Result<()> {
    let server = Sshd::start().await?;
    let path = server.dir().join("echo.sock");
    let _target = Target::unix(&path, TargetBehavior::Echo)?;
    let session = connect(&route(&server)).await?.session;
    let mut channel = session
        .open_direct_streamlocal(path.to_str().unwrap())
        .await?;
    payload::ping(&mut channel, b"hello").await
}

#[tokio::test]
async fn a_refused_channel_reports_the_reason_of_the_server() -> Result<()> {
    let server = Sshd::start().await?;
    let session = connect(&route(&server)).await?.session;
    let port = tunneld_tests::ports::free()?;
    let refused = session
        .open_direct_tcpip("127.0.0.1", port, None)
        .await
        .err()
        .unwrap();
    assert_eq!(
        refused,
        OpenError::Refused {
            code: 2,
            text: "Connection refused".into()
        }
    );
    Ok(())
}

#[tokio::test]
async fn eof_and_session_loss_are_distinguished() -> Result<()> {
    let server = Sshd::start().await?;
    let source = Target::start(TargetBehavior::SendThenRead(b"all of it"[..].into())).await?;
    let silent = Target::start(TargetBehavior::NeverRead).await?;
    let session = connect(&route(&server)).await?.session;

    let (mut reader, mut writer) = session
        .open_direct_tcpip("127.0.0.1", source.port(), None)
        .await?
        .split();
    let mut received = Vec::new();
    while let Some(bytes) = reader.read_chunk().await? {
        received.extend(bytes);
    }
    assert_eq!(received, b"all of it");
    // The end of file is not the end of the channel: this direction is still open (RFC 4254 §5.3).
    writer.write_all(b"x").await?;
    writer.shutdown().await?;
    within(LONG, "the CLOSE", writer.closed()).await?;

    // A writer that waits for window credit and a reader both wake when the session is lost.
    let (mut reader, mut writer) = session
        .open_direct_tcpip("127.0.0.1", silent.port(), None)
        .await?
        .split();
    let blocked_write = async {
        let chunk = vec![0; MIB];
        loop {
            if let Err(error) = writer.write_all(&chunk).await {
                return error.kind();
            }
        }
    };
    let kill = async {
        // Long enough for the writer to use up the channel's window on loopback.
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.kill_sessions()
    };
    let (written, read, killed) = tokio::join!(blocked_write, reader.read_chunk(), kill);
    killed?;
    assert_eq!(written, std::io::ErrorKind::ConnectionAborted);
    assert_eq!(
        read.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionAborted
    );
    assert_eq!(session.closed().await.kind, FailureKind::Disconnected);
    Ok(())
}

#[tokio::test]
async fn remote_forwards_work_with_port_zero_and_unix_sockets() -> Result<()> {
    let server = Sshd::start().await?;
    let mut established = connect(&route(&server)).await?;
    let any_port = ListenAddr::Tcp {
        bind: BindAddr::Loopback,
        port: 0,
    };
    let port = established.session.request_forward(&any_port).await?;
    assert_ne!(port, 0);
    let path = server.dir().join("remote.sock");
    let unix = ListenAddr::Unix(path.clone());
    assert_eq!(established.session.request_forward(&unix).await?, 0);

    let mut client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let incoming = within(LONG, "the connection", established.incoming.recv())
        .await?
        .unwrap();
    assert_eq!((&incoming.listen, incoming.port), (&any_port, port));
    assert!(
        incoming.originator.starts_with("127.0.0.1:"),
        "{}",
        incoming.originator
    );
    let mut channel = incoming.channel.accept()?;
    client.write_all(b"ping").await?;
    let mut got = [0; 4];
    channel.read_exact(&mut got).await?;
    channel.write_all(b"pong").await?;
    client.read_exact(&mut got).await?;
    assert_eq!(&got, b"pong");

    let mut client = tokio::net::UnixStream::connect(&path).await?;
    let incoming = within(LONG, "the connection", established.incoming.recv())
        .await?
        .unwrap();
    assert_eq!(incoming.listen, unix);
    incoming.channel.refuse(2, "no");
    assert_eq!(client.read(&mut got).await?, 0);

    let again = established
        .session
        .request_forward(&ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port,
        })
        .await;
    assert_eq!(again.unwrap_err().kind, FailureKind::RemoteForwardRefused);
    established.session.cancel_forward(&any_port, 0).await?;
    assert!(
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
    );
    Ok(())
}

#[tokio::test]
async fn a_silent_server_is_given_up_after_interval_times_count_even_under_uploads() -> Result<()> {
    let server = Sshd::start().await?;
    let silent = Target::start(TargetBehavior::NeverRead).await?;
    let session = connect(&route(&server)).await?.session;
    let busy = connect(&route(&server)).await?.session;
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut channel = busy
            .open_direct_tcpip("127.0.0.1", silent.port(), None)
            .await?;
        uploads.spawn(async move {
            let chunk = vec![0; MIB];
            while channel.write_all(&chunk).await.is_ok() {}
        });
    }
    server.freeze_sessions()?;
    let frozen = tokio::time::Instant::now();
    // The session with blocked uploads must be given up as early as the idle one.
    let (idle, loaded) = tokio::join!(session.closed(), busy.closed());
    let noticed_after = frozen.elapsed();
    assert_eq!(
        (idle.kind, loaded.kind),
        (FailureKind::DeadPeer, FailureKind::DeadPeer)
    );
    // The route's interval of 2 s times the count of 3, less the part of an interval that had passed at the freeze.
    assert!(
        noticed_after > Duration::from_secs(4) && noticed_after < Duration::from_secs(8),
        "{noticed_after:?}"
    );
    while uploads.join_next().await.is_some() {}
    Ok(())
}

#[tokio::test]
async fn a_cancelled_dial_closes_its_connection() -> Result<()> {
    let server = Sshd::start().await?;
    let mut link = FaultyLink::to(server.addr()).await?;
    link.freeze();
    let route = route_at(&server, link.port());
    // Dropped while it waits for the server's identification.
    let dial = tokio::time::timeout(Duration::from_millis(300), connect(&route));
    assert!(dial.await.is_err());
    link.thaw();
    link.wait_connections(0, LONG).await
}

#[tokio::test]
async fn a_silent_server_times_out() -> Result<()> {
    let server = Sshd::start().await?;
    let silent = Target::start(TargetBehavior::NeverRead).await?;
    let mut route = route_at(&server, silent.port());
    route.connect_timeout = Duration::from_secs(1);
    let failure = super::refused(&route).await;
    assert_eq!(failure.kind, FailureKind::Timeout, "{failure:?}");
    assert!(failure.message.contains("at kex"), "{failure:?}");

    route.port = tunneld_tests::ports::free()?;
    let failure = super::refused(&route).await;
    assert_eq!(failure.kind, FailureKind::ConnectRefused, "{failure:?}");
    route.host = "no-such-host.invalid".into();
    assert_eq!(super::refused(&route).await.kind, FailureKind::Resolve);
    Ok(())
}
