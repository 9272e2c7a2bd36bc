//! Invalid input to a SOCKS listener: a reply code if one can be sent, else a close, and no effect on other clients.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tunneld_proto::status::ForwardKind;
use tunneld_tests::daemon::listen_addr;
use tunneld_tests::payload;
use tunneld_tests::socks::{self, Destination};
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{Fixture, secs, session_since, tcp};

/// Starts a tunnel with a dynamic forward and returns the address of its listener.
async fn start_proxy() -> Result<(Fixture, SocketAddr)> {
    let (fixture, tunnel) = Fixture::up("dynamic_forward = 0").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    Ok((fixture, proxy))
}

/// Sends `bytes` and returns the bytes that the proxy sends until it closes the connection.
async fn send_and_read(proxy: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = tcp(proxy).await?;
    // The proxy may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut received = Vec::new();
    // A reset counts as a close.
    let read = stream.read_to_end(&mut received);
    let _ = within(secs(14), "the proxy to close", read).await?;
    Ok(received)
}

/// Checks that the proxy serves a valid request.
async fn check_works(proxy: SocketAddr, target: &Target) -> Result<()> {
    let dest = Destination::Ip(target.addr().ip());
    let stream = within(
        LONG,
        "a SOCKS reply",
        socks::connect_v5(proxy, &dest, target.port()),
    )
    .await??;
    payload::ping(&mut stream.expect("granted"), b"works").await
}

#[tokio::test]
async fn a_connection_that_is_not_socks_is_closed_without_a_reply() -> Result<()> {
    let (_fixture, proxy) = start_proxy().await?;
    for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b"\x00\x00", b"\xff"] {
        let began = Instant::now();
        assert_eq!(send_and_read(proxy, bytes).await?, b"", "{bytes:?}");
        assert!(
            began.elapsed() < secs(2),
            "{bytes:?} after {:?}",
            began.elapsed()
        );
    }
    Ok(())
}

#[tokio::test]
async fn unsupported_authentication_methods_are_refused() -> Result<()> {
    let (_fixture, proxy) = start_proxy().await?;
    for bytes in [&[5, 0][..], &[5, 1, 1], &[5, 2, 1, 0x80]] {
        let reply = send_and_read(proxy, bytes).await?;
        assert!(
            reply.is_empty() || reply == [5, 0xff],
            "{bytes:?}: {reply:?}"
        );
    }
    // The longest greeting: 255 methods, and the supported one is the last.
    let mut many = vec![5, 255];
    many.extend(1..=254);
    many.push(0);
    let mut stream = tcp(proxy).await?;
    stream.write_all(&many).await?;
    let mut method = [0; 2];
    within(LONG, "a method", stream.read_exact(&mut method)).await??;
    assert_eq!(method, [5, 0]);
    // A SOCKS4 request after a SOCKS5 greeting.
    stream.write_all(&[4, 1, 0, 80, 127, 0, 0, 1, 0]).await?;
    let mut rest = Vec::new();
    let _ = within(secs(14), "the close", stream.read_to_end(&mut rest)).await?;
    assert!(rest.is_empty() || rest[1] != 0, "{rest:?}");
    Ok(())
}

#[tokio::test]
async fn invalid_names_are_refused_and_others_go_to_the_server_unchanged() -> Result<()> {
    let target = Target::echo().await?;
    let (_fixture, proxy) = start_proxy().await?;
    let ask = async |name: &[u8]| -> Result<u8> {
        let mut stream = tcp(proxy).await?;
        let mut request = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len())?];
        request.extend(name);
        request.extend(target.port().to_be_bytes());
        stream.write_all(&request).await?;
        let mut method = [0; 2];
        stream.read_exact(&mut method).await?;
        within(LONG, "a reply", socks::read_reply_v5(&mut stream)).await?
    };
    for name in [&b""[..], b"a\0b", b"a\nb", b"a\x1bb"] {
        assert_eq!(ask(name).await?, 1, "{name:?}");
    }
    for name in [&b"127.0.0.1"[..], b"localhost"] {
        assert_eq!(ask(name).await?, 0, "{name:?}");
    }
    for name in [&b"no_such_host.invalid"[..], b"a.invalid.", &[b'x'; 255]] {
        assert_eq!(ask(name).await?, 4, "{name:?}");
    }
    // Not UTF-8, and not a name that any resolver knows.
    assert_ne!(ask(b"\xff\xfe.invalid").await?, 0);
    Ok(())
}

#[tokio::test]
async fn port_zero_gets_a_general_failure() -> Result<()> {
    let (_fixture, proxy) = start_proxy().await?;
    let answer = socks::connect_v5(proxy, &Destination::Ip([127, 0, 0, 1].into()), 0).await?;
    assert_eq!(answer.err(), Some(1));
    Ok(())
}

#[tokio::test]
async fn endless_socks4_strings_are_refused() -> Result<()> {
    let (_fixture, proxy) = start_proxy().await?;
    let began = Instant::now();
    let mut user = vec![4, 1, 0, 80, 127, 0, 0, 1];
    user.extend(vec![b'u'; 1 << 20]);
    let reply = send_and_read(proxy, &user).await?;
    assert!(reply.is_empty() || reply[1] == 91, "{reply:?}");
    let mut host = vec![4, 1, 0, 80, 0, 0, 0, 1, 0];
    host.extend(vec![b'h'; 1 << 20]);
    let reply = send_and_read(proxy, &host).await?;
    assert!(reply.is_empty() || reply[1] == 91, "{reply:?}");
    assert!(began.elapsed() < secs(4), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn any_packet_split_works_and_early_payload_is_forwarded() -> Result<()> {
    let target = Target::echo().await?;
    let (_fixture, proxy) = start_proxy().await?;
    let dest = Destination::Name("127.0.0.1".into());
    let mut five = vec![5, 1, 0];
    five.extend(socks::request_v5(1, &dest, target.port()));
    five.extend(b"early");
    let mut four = vec![4, 1];
    four.extend(target.port().to_be_bytes());
    four.extend([0, 0, 0, 1]);
    four.extend(b"user\x00127.0.0.1\0early");
    // The replies before the echo: 2 + 10 bytes with SOCKS5, 8 with SOCKS4.
    for (request, reply_len) in [(&five, 12), (&four, 8)] {
        for at in 0..=request.len() {
            let mut stream = tcp(proxy).await?;
            stream.set_nodelay(true)?;
            stream.write_all(&request[..at]).await?;
            tokio::task::yield_now().await;
            stream.write_all(&request[at..]).await?;
            let mut received = vec![0; reply_len + 5];
            let what = format!("the echo after {reply_len} bytes, split at {at}");
            within(LONG, &what, stream.read_exact(&mut received)).await??;
            assert!(received.ends_with(b"early"), "split at {at}: {received:?}");
        }
        let mut stream = tcp(proxy).await?;
        stream.set_nodelay(true)?;
        for byte in request {
            stream.write_all(&[*byte]).await?;
            // Long enough for the proxy to read each byte alone.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let mut received = vec![0; reply_len + 5];
        within(LONG, "the echo", stream.read_exact(&mut received)).await??;
        assert!(received.ends_with(b"early"), "{received:?}");
    }
    Ok(())
}

#[tokio::test]
async fn half_closed_and_slow_handshakes_are_closed_in_time() -> Result<()> {
    let (fixture, proxy) = start_proxy().await?;
    let before = fixture.daemon.status("t").await?;
    let mut half = tcp(proxy).await?;
    half.write_all(&[5, 1]).await?;
    half.shutdown().await?;
    let mut received = Vec::new();
    let read = half.read_to_end(&mut received);
    let _ = within(secs(3), "the proxy to close", read).await?;
    assert_eq!(received, b"");
    let began = Instant::now();
    assert_eq!(send_and_read(proxy, &[5, 1, 0, 5, 1, 0, 3]).await?, [5, 0]);
    assert!(began.elapsed() > secs(4), "{:?}", began.elapsed());
    let after = fixture.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn hundreds_of_silent_clients_do_not_block_others() -> Result<()> {
    let target = Target::echo().await?;
    let (_fixture, proxy) = start_proxy().await?;
    let mut silent: Vec<TcpStream> = Vec::new();
    // More than the 256 connections that the daemon keeps in the handshake at once.
    for _ in 0..600 {
        silent.push(tcp(proxy).await?);
    }
    let began = Instant::now();
    check_works(proxy, &target).await?;
    assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
    drop(silent);
    check_works(proxy, &target).await
}
