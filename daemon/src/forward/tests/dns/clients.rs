//! Clients of DNS forwards that pipeline, are idle or send garbage, and the listening sockets.

use super::*;

#[tokio::test]
async fn garbage_over_udp_disturbs_no_other_query() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let mut server = fixture.attach().await;
    let client = Client::new(&fixture).await;
    for len in 0..60 {
        client.send(&noise(len)).await;
    }
    client.send(&vec![0; 60_000]).await;
    client.send(&answer(&query(1, "response"))).await;
    let asked = query(1, "a");
    client.send(&asked).await;
    let mut peer = server.next_open_request().await.accept();
    let received = receive_query(&mut peer, asked.len()).await;
    peer.send_data(&framed(&answer(&received))).await;
    loop {
        let message = client.receive().await;
        if message == answer(&asked) {
            break;
        }
        assert_eq!(message[3] & 0x0f, 1, "FORMERR: {message:?}");
    }
}

#[tokio::test]
async fn a_query_beyond_max_connections_fails_at_once() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let client = Client::new(&fixture).await;
    let mut options = options(Duration::from_secs(30));
    options.forwarding.max_connections = 1;
    fixture.forwards.reconcile(&[dns(0)], options).await;
    client.send(&query(1, "a")).await;
    fixture.until(0, |status| status.held == 1).await;
    client.send(&query(2, "a")).await;
    assert_eq!(client.receive().await, servfail(&query(2, "a")));
    // The first one still waits for the session.
    let mut server = fixture.attach().await;
    let mut peer = server.next_open_request().await.accept();
    let received = receive_query(&mut peer, query(1, "a").len()).await;
    peer.send_data(&framed(&answer(&received))).await;
    assert_eq!(client.receive().await, answer(&query(1, "a")));
}

#[tokio::test]
async fn a_tcp_client_pipelines_and_closes_its_half() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    // More than may wait at a time.
    let queries: Vec<Vec<u8>> = (0..50).map(|id| query(id, "a")).collect();
    let sent: Vec<u8> = queries.iter().flat_map(|query| framed(query)).collect();
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut peer = server.next_open_request().await.accept();
    let (mut received, mut count) = (Vec::new(), 0);
    while count < queries.len() {
        match peer.from_local.recv().await {
            Some(fake_session::Message::Data(bytes)) => received.extend_from_slice(&bytes),
            other => panic!("{other:?}"),
        }
        let len = 2 + queries[0].len();
        assert!(received.len() <= 16 * len, "it reads no more than it keeps");
        while received.len() >= len {
            let message: Vec<u8> = received.drain(..len).skip(2).collect();
            peer.send_data(&framed(&answer(&message))).await;
            count += 1;
        }
    }
    let answers: Vec<u8> = queries
        .iter()
        .flat_map(|query| framed(&answer(query)))
        .collect();
    assert_eq!(read_to_end(&mut client).await.unwrap(), answers);
}

#[tokio::test(start_paused = true)]
async fn a_tcp_client_that_is_idle_or_sends_no_query_is_closed() {
    let fixture = Fixture::new(&[dns(0)]).await;
    for sent in [
        &[][..],
        &[0],
        &[0, 20, 1],
        &[0xff, 0xff, 1],
        &[0, 3, 1, 2, 3],
    ] {
        let mut client = fixture.connect().await;
        let since = Instant::now();
        client.write_all(sent).await.unwrap();
        assert_eq!(read_to_end(&mut client).await.unwrap(), b"", "{sent:?}");
        assert!(since.elapsed() <= Duration::from_secs(11), "{sent:?}");
    }
    fixture.until(0, |status| status.connections == 0).await;
}

#[tokio::test]
async fn udp_and_tcp_have_the_same_port_on_both_loopback_addresses() {
    let fixture = Fixture::new(&[dns(0)]).await;
    let port = fixture.address(0).port();
    for ip in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(ip.parse().unwrap(), port);
        assert!(std::net::TcpListener::bind(address).is_err(), "{address}");
        assert!(std::net::UdpSocket::bind(address).is_err(), "{address}");
    }
    assert!(!fixture.status(0).exposed);
}

#[tokio::test]
async fn a_port_that_is_taken_for_udp_alone_fails_the_forward() {
    // A port that is free for TCP.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    let taken = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
    drop(free);
    let fixture = Fixture::new(&[dns(port)]).await;
    fixture
        .until(0, |status| status.state == ForwardState::Failed)
        .await;
    let error = fixture.status(0).error.unwrap().message;
    let expected = format!("cannot listen on 127.0.0.1:{port} over UDP: the address is in use");
    assert!(error.starts_with(&expected), "{error}");
    // The TCP port is not kept from others meanwhile.
    std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    drop(taken);
    fixture
        .until(0, |status| status.state == ForwardState::Listening)
        .await;
}

#[tokio::test]
async fn a_removed_forward_frees_the_port_and_ends_its_clients() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let address = fixture.address(0);
    let (udp, mut stream) = (Client::new(&fixture).await, fixture.connect().await);
    udp.send(&query(1, "a")).await;
    stream.write_all(&framed(&query(1, "a"))).await.unwrap();
    fixture.until(0, |status| status.held == 2).await;
    let options = options(Duration::from_secs(30));
    fixture.forwards.reconcile(&[], options).await;
    std::net::UdpSocket::bind(address).unwrap();
    std::net::TcpListener::bind(address).unwrap();
    assert_reset(&mut stream).await;
}
