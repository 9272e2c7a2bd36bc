//! Dynamic forwards from the client's point of view.

use super::super::ssh_session::ChannelTarget;
use super::*;

async fn read(client: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).await.unwrap();
    bytes
}

fn by_name(name: &[u8], port: u16) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes
}

#[tokio::test]
async fn socks5_sends_its_reply_only_when_the_channel_is_open() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    client.write_all(&[5, 1, 0]).await.unwrap();
    assert_eq!(read(&mut client, 2).await, [5, 0]);
    let mut request = by_name(b"w\xffb.internal.", 443);
    request.extend(b"hello at once");
    client.write_all(&request).await.unwrap();
    let open = server.next_open_request().await;
    let target = ChannelTarget::Tcp {
        host: b"w\xffb.internal.".to_vec(),
        port: 443,
    };
    assert_eq!(open.target, target);
    let nothing = client.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    let mut peer = open.accept();
    assert_eq!(read(&mut client, 10).await, [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    client.write_all(b", and later").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(
        peer.receive_to_eof().await,
        Ok(b"hello at once, and later".to_vec())
    );
    peer.send_eof().await;
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
}

#[tokio::test]
async fn socks4a_connects_by_name() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    let request = b"\x04\x01\x00\x50\x00\x00\x00\x01me\0db.internal\0";
    client.write_all(request).await.unwrap();
    let open = server.next_open_request().await;
    let target = ChannelTarget::Tcp {
        host: b"db.internal".to_vec(),
        port: 80,
    };
    assert_eq!(open.target, target);
    let _peer = open.accept();
    assert_eq!(read(&mut client, 8).await, [0, 90, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_refused_channel_is_answered_with_the_matching_code() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    for (code, text, reply) in [
        (2, "Connection refused", 5),
        (2, "No route to host", 4),
        (1, "open failed", 2),
    ] {
        let mut client = fixture.connect().await;
        client.write_all(&[5, 1, 0]).await.unwrap();
        client.write_all(&by_name(b"x", 1)).await.unwrap();
        server.next_open_request().await.refuse(code, text);
        let answer = read_to_end(&mut client).await.unwrap();
        assert_eq!(answer, [5, 0, 5, reply, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
    let mut client = fixture.connect().await;
    client
        .write_all(b"\x04\x01\x00\x50\x01\x02\x03\x04\0")
        .await
        .unwrap();
    server
        .next_open_request()
        .await
        .refuse(2, "Connection refused");
    assert_eq!(
        read_to_end(&mut client).await.unwrap(),
        [0, 91, 0, 0, 0, 0, 0, 0]
    );
}

#[tokio::test]
async fn a_complete_request_is_held_until_a_session_is_attached() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut client = fixture.connect().await;
    client.write_all(&[5, 1, 0]).await.unwrap();
    client.write_all(&by_name(b"x", 1)).await.unwrap();
    fixture.until(0, |status| status.held == 1).await;
    let mut server = fixture.attach().await;
    let _peer = server.next_open_request().await.accept();
    assert_eq!(read(&mut client, 12).await[..4], [5, 0, 5, 0]);
}

#[tokio::test]
async fn an_unknown_protocol_is_closed_without_a_reply() {
    let fixture = Fixture::new(&[dynamic()]).await;
    let mut client = fixture.connect().await;
    client.write_all(b"\x16").await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_that_sends_no_request_is_closed_after_ten_seconds() {
    let fixture = Fixture::new(&[dynamic()]).await;
    let mut client = fixture.connect().await;
    client.write_all(&[5, 1, 0]).await.unwrap();
    assert_eq!(read(&mut client, 2).await, [5, 0]);
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
    // The wait began a moment before the clock was paused.
    assert!((5..=10).contains(&start.elapsed().as_secs()));
}
