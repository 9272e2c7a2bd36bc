//! Channels, forwards and ends of a session against sshd.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunneld::failure::FailureKind;
use tunneld::session::OpenError;
use tunneld_config::addr::{BindAddr, ListenAddr};
use tunneld_tests::faulty_link::Link;
use tunneld_tests::payload::{self, MIB};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::wait::{LONG, within};

use super::{connect, route, route_at};

#[tokio::test]
async fn a_key_file_logs_in_and_channels_carry_bytes() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::start(Manner::Collect).await?;
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
    let _target = Target::unix(&path, Manner::Echo)?;
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
    let source = Target::start(Manner::Source(b"all of it"[..].into())).await?;
    let silent = Target::start(Manner::Silent).await?;
    let session = connect(&route(&server)).await?.session;

    let (mut reader, mut writer) = session
        .open_direct_tcpip("127.0.0.1", source.port(), None)
        .await?
        .split();
    let mut got = Vec::new();
    while let Some(bytes) = reader.next().await? {
        got.extend(bytes);
    }
    assert_eq!(got, b"all of it");
    writer.write_all(b"x").await?;
    writer.shutdown().await?;
    within(LONG, "the CLOSE", writer.closed()).await?;

    // A writer that waits for window, and a reader, wake when the session dies.
    let (mut reader, mut writer) = session
        .open_direct_tcpip("127.0.0.1", silent.port(), None)
        .await?
        .split();
    let stuck = async {
        let chunk = vec![0; MIB];
        loop {
            if let Err(error) = writer.write_all(&chunk).await {
                return error.kind();
            }
        }
    };
    let killing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.kill_sessions()
    };
    let (written, read, killed) = tokio::join!(stuck, reader.next(), killing);
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
    let mut up = connect(&route(&server)).await?;
    let free = ListenAddr::Tcp {
        bind: BindAddr::Loopback,
        port: 0,
    };
    let port = up.session.request_forward(&free).await?;
    assert_ne!(port, 0);
    let path = server.dir().join("remote.sock");
    let unix = ListenAddr::Unix(path.clone());
    assert_eq!(up.session.request_forward(&unix).await?, 0);

    let mut client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let incoming = within(LONG, "the connection", up.incoming.recv())
        .await?
        .unwrap();
    assert_eq!((&incoming.listen, incoming.port), (&free, port));
    assert!(
        incoming.originator.starts_with("127.0.0.1:"),
        "{}",
        incoming.originator
    );
    let mut channel = incoming.channel.accept().await?;
    client.write_all(b"ping").await?;
    let mut got = [0; 4];
    channel.read_exact(&mut got).await?;
    channel.write_all(b"pong").await?;
    client.read_exact(&mut got).await?;
    assert_eq!(&got, b"pong");

    let mut client = tokio::net::UnixStream::connect(&path).await?;
    let incoming = within(LONG, "the connection", up.incoming.recv())
        .await?
        .unwrap();
    assert_eq!(incoming.listen, unix);
    incoming.channel.refuse("no").await;
    assert_eq!(client.read(&mut got).await?, 0);

    let again = up
        .session
        .request_forward(&ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port,
        })
        .await;
    assert_eq!(again.unwrap_err().kind, FailureKind::RemoteForwardRefused);
    up.session.cancel_forward(&free).await?;
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
    let silent = Target::start(Manner::Silent).await?;
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
    let (idle, loaded) = tokio::join!(session.closed(), busy.closed());
    let took = frozen.elapsed();
    assert_eq!(
        (idle.kind, loaded.kind),
        (FailureKind::DeadPeer, FailureKind::DeadPeer)
    );
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(8),
        "{took:?}"
    );
    while uploads.join_next().await.is_some() {}
    Ok(())
}

#[tokio::test]
async fn a_cancelled_dial_closes_its_connection() -> Result<()> {
    let server = Sshd::start().await?;
    let mut link = Link::to(server.addr()).await?;
    link.freeze();
    let route = route_at(&server, link.port());
    let dialling = tokio::time::timeout(Duration::from_millis(300), connect(&route));
    assert!(dialling.await.is_err());
    link.thaw();
    link.wait_live(0, LONG).await
}

#[tokio::test]
async fn a_silent_server_times_out() -> Result<()> {
    let server = Sshd::start().await?;
    let silent = Target::start(Manner::Silent).await?;
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
