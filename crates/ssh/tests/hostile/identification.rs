//! Attacks before the key exchange (RFC 4253 §4.2).

use std::time::Duration;

use tokio::time::sleep;
use tunneld_ssh::Error;
use tunneld_ssh::client::{Options, Stream};

use crate::play::*;

async fn greeting(bytes: &[u8]) -> End {
    attack(When::Start, async |server| {
        server.raw(bytes).await;
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_times_out_after_30_s() {
    let end = greeting(b"").await;
    end.says("timed out").before_login();
    assert_eq!(end.after, Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn one_byte_a_second_times_out_after_30_s() {
    let end = attack(When::Start, async |server| {
        for byte in b"SSH-2.0-slow".iter().chain(&[b'w'; 240]) {
            sleep(Duration::from_secs(1)).await;
            if !server.raw(&[*byte]).await {
                return;
            }
        }
    })
    .await;
    end.says("timed out");
    assert_eq!(end.after, Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn endless_lines_before_the_identification_are_refused() {
    let end = greeting(&b"hello\r\n".repeat(1025)).await;
    end.says("too many lines before it").before_login();
    let end = greeting(&[b'a'; 9000]).await;
    end.says("a line without an end");
    let end = attack(When::Start, async |server| {
        while server.raw(&[b'a'; 8191]).await && server.raw(b"\n").await {}
    })
    .await;
    assert!(end.after < Duration::from_secs(30));
    assert!(matches!(end.error, Error::Ident(_)));
}

#[tokio::test(start_paused = true)]
async fn an_identification_of_more_than_255_bytes_is_refused() {
    let long = [b"SSH-2.0-".to_vec(), vec![b'x'; 300]].concat();
    for end in [&b"\r\n"[..], b""] {
        let end = greeting(&[&long, end].concat()).await;
        assert!(matches!(end.error, Error::Ident(_)), "{end:?}");
        assert!(end.error.to_string().len() < 400);
    }
}

#[tokio::test(start_paused = true)]
async fn other_versions_and_other_protocols_are_refused() {
    for line in [
        &b"SSH-1.5-old\r\n"[..],
        b"SSH-3.0-new\r\n",
        b"SSH-2.0-\xff\xfe\r\n",
        b"SSH-2.0-a\0b\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"220 mail.example.org ESMTP\r\nSSH-\r\n",
    ] {
        let end = greeting(line).await;
        assert!(matches!(end.error, Error::Ident(_)), "{end:?}");
        end.before_login();
    }
}

#[tokio::test(start_paused = true)]
async fn the_compatible_version_1_99_is_accepted() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let mut server = Server::new(theirs);
    server.peer.ident = "SSH-1.99-both".into();
    let offer = Default::default();
    let (authenticator, ()) = tokio::join!(
        connect(Stream::other(ours), Default::default(), Options::default()),
        server.advance_to(When::Auth, &offer),
    );
    assert_eq!(authenticator.unwrap().info().ident, "SSH-1.99-both");
}

/// The core passes on the server's text as it is, within its bounds; the caller escapes it for display.
#[tokio::test(start_paused = true)]
async fn escape_sequences_are_passed_on_within_bounds() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let mut server = Server::new(theirs);
    server.peer.ident = "SSH-2.0-\x1b[2J\u{9b}31m".into();
    let offer = Default::default();
    let (authenticator, ()) = tokio::join!(
        connect(Stream::other(ours), Default::default(), Options::default()),
        server.advance_to(When::Auth, &offer),
    );
    assert_eq!(
        authenticator.unwrap().info().ident,
        "SSH-2.0-\x1b[2J\u{9b}31m"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_disconnects_is_reported_as_such() {
    for bytes in [
        &b""[..],
        b"SSH-2.0-x",
        b"SSH-2.0-x\r\n",
        b"SSH-2.0-x\r\n\0\0\0\x0c",
    ] {
        let (ours, theirs) = tokio::io::duplex(4096);
        let mut server = Server::new(theirs);
        server.raw(bytes).await;
        drop(server);
        let authenticator =
            connect(Stream::other(ours), Default::default(), Options::default()).await;
        // A write may fail before the end of the stream is read.
        assert!(
            matches!(
                authenticator,
                Err(Error::Eof | Error::ClosedEarly(_) | Error::Io(_))
            ),
            "{:?}",
            authenticator.err()
        );
    }
}
