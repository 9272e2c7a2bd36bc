//! The relay: bytes in both directions, and every way in which a connection can end.

use super::*;

#[tokio::test]
async fn ten_megabytes_arrive_unchanged_in_both_directions() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (client, mut peer) = pair(&fixture, &mut server).await;
    let bytes = noise(10 << 20);
    let (mut read, mut write) = client.into_split();
    let upload = async {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let download = async {
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        got
    };
    let send = peer.to_local.clone();
    let server_sends = async {
        for piece in bytes.chunks(32_000) {
            let piece = bytes::Bytes::copy_from_slice(piece);
            send.send(super::fake_session::Message::Data(piece))
                .await
                .unwrap();
        }
        send.send(super::fake_session::Message::Eof).await.unwrap();
    };
    let ((), got, (), received) =
        tokio::join!(upload, download, server_sends, peer.receive_to_eof());
    assert!(got == bytes);
    assert!(received.unwrap() == bytes);
    fixture.until_no_connection().await;
    let status = fixture.status(0);
    assert_eq!((status.bytes_in, status.bytes_out), (10 << 20, 10 << 20));
    assert_eq!((status.connections, status.total), (0, 1));
}

#[tokio::test]
async fn the_server_can_send_after_the_client_has_sent_eof() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (mut client, mut peer) = pair(&fixture, &mut server).await;
    write_all_and_finish(&mut client, b"question").await;
    assert_eq!(peer.receive_to_eof().await, Ok(b"question".to_vec()));
    peer.send_data(&noise(300_000)).await;
    peer.send_eof().await;
    assert!(read_to_end(&mut client).await.unwrap() == noise(300_000));
    assert_eq!(
        peer.receive_to_eof().await,
        Err(vec![]),
        "CLOSE follows both EOFs"
    );
}

#[tokio::test]
async fn the_client_can_send_after_the_server_has_sent_eof() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (mut client, mut peer) = pair(&fixture, &mut server).await;
    peer.send_data(b"banner").await;
    peer.send_eof().await;
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"banner");
    write_all_and_finish(&mut client, &noise(300_000)).await;
    assert!(peer.receive_to_eof().await.unwrap() == noise(300_000));
}

#[tokio::test]
async fn a_reset_by_the_client_closes_the_channel_without_eof() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (client, mut peer) = pair(&fixture, &mut server).await;
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    assert_eq!(peer.receive_to_eof().await, Err(vec![]));
}

#[tokio::test]
async fn a_reset_by_the_client_is_noticed_while_the_server_gives_no_window() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (client, peer) = pair(&fixture, &mut server).await;
    // More than the window and the socket buffers hold: the relay waits for window.
    while client.try_write(&[0; 65536]).is_ok() {}
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    peer.to_local.closed().await;
}

#[tokio::test]
async fn a_channel_close_without_eof_resets_the_client() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (mut client, peer) = pair(&fixture, &mut server).await;
    peer.send_data(b"half").await;
    let mut half = [0; 4];
    client.read_exact(&mut half).await.unwrap();
    drop(peer);
    assert_reset(&mut client).await;
}

#[tokio::test]
async fn a_channel_close_after_eof_closes_the_client_in_order() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (mut client, peer) = pair(&fixture, &mut server).await;
    peer.send_data(b"all").await;
    peer.send_eof().await;
    drop(peer);
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"all");
    fixture.until_no_connection().await;
    // The connection is closed in both directions, although the client has sent no EOF.
    while client.write_all(b"x").await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lost_session_resets_its_connections() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (mut idle, _idle_peer) = pair(&fixture, &mut server).await;
    let (mut half_sent, half_peer) = pair(&fixture, &mut server).await;
    let (mut half_closed, mut half_closed_peer) = pair(&fixture, &mut server).await;
    half_peer.send_data(b"half").await;
    half_sent.read_exact(&mut [0; 4]).await.unwrap();
    half_closed.shutdown().await.unwrap();
    assert_eq!(half_closed_peer.receive_to_eof().await, Ok(vec![]));
    server.lost.cancel();
    for client in [&mut idle, &mut half_sent, &mut half_closed] {
        assert_reset(client).await;
    }
}

#[tokio::test]
async fn a_lost_session_also_resets_a_client_that_reads_nothing() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (mut client, peer) = pair(&fixture, &mut server).await;
    let piece = bytes::Bytes::from(vec![0; 1 << 20]);
    let data = || super::fake_session::Message::Data(piece.clone());
    // Until all buffers on the way are full.
    tokio::time::pause();
    while tokio::time::timeout(Duration::from_millis(100), peer.to_local.send(data()))
        .await
        .is_ok()
    {}
    server.lost.cancel();
    fixture.until_no_connection().await;
    assert_reset(&mut client).await;
}

#[tokio::test]
async fn a_slow_reader_does_not_stall_other_connections() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (_stalled, stalled_peer) = pair(&fixture, &mut server).await;
    while stalled_peer
        .to_local
        .try_send(super::fake_session::Message::Data(vec![0; 1 << 20].into()))
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    let (mut client, mut peer) = pair(&fixture, &mut server).await;
    client.write_all(b"ping").await.unwrap();
    assert_eq!(peer.receive_exactly(4).await, b"ping");
    peer.send_data(b"pong").await;
    let mut got = [0; 4];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"pong");
}

#[tokio::test]
async fn the_open_request_has_the_target_and_the_originator() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let client = fixture.connect().await;
    let open = server.next_open_request().await;
    assert_eq!(open.target, (&to("target", 80)).into());
    assert_eq!(open.originator, client.local_addr().ok());
}

#[tokio::test]
async fn a_refused_channel_resets_the_client_and_the_forward_still_listens() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    server
        .next_open_request()
        .await
        .refuse(1, "administratively prohibited");
    assert_reset(&mut client).await;
    let (mut client, peer) = pair(&fixture, &mut server).await;
    peer.send_eof().await;
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
}
