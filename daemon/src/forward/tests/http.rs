//! The HTTP proxy of a dynamic forward from the client's point of view, with origins in memory.

use super::super::ssh_session::ChannelTarget;
use super::fake_session::Message;
use super::*;
use crate::forward::TunnelSummary;

/// Reads until `end` is the last thing read.
async fn read_until(client: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let read = client.read(&mut byte).await.unwrap();
        assert_ne!(read, 0, "EOF after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&byte);
    }
    String::from_utf8(text).unwrap()
}

/// Receives a message up to its empty line.
async fn receive_head(peer: &mut Peer) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match peer.from_local.recv().await {
            Some(Message::Data(bytes)) => head.push_str(std::str::from_utf8(&bytes).unwrap()),
            other => panic!("{other:?} after {head:?}"),
        }
    }
    head
}

fn target(host: &str, port: u16) -> ChannelTarget {
    ChannelTarget::Tcp {
        host: host.as_bytes().to_vec(),
        port,
    }
}

#[tokio::test]
async fn connect_becomes_a_byte_stream_once_the_channel_is_open() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    client
        .write_all(b"CONNECT [fd00::1]:443 HTTP/1.1\r\nHost: x\r\n\r\nhello at once")
        .await
        .unwrap();
    let open = server.next_open_request().await;
    assert_eq!(open.target, target("fd00::1", 443));
    assert_eq!(open.originator, Some(client.local_addr().unwrap()));
    let nothing = client.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    let mut peer = open.accept();
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(head, "HTTP/1.1 200 OK\r\n\r\n");
    client.write_all(b", and later").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(
        peer.receive_to_eof().await,
        Ok(b"hello at once, and later".to_vec())
    );
    peer.send_data(b"answer").await;
    peer.send_eof().await;
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"answer");
    let status = fixture.status(0);
    assert_eq!((status.bytes_in, status.bytes_out), (6, 24));
}

#[tokio::test]
async fn requests_in_absolute_form_share_one_channel_to_the_same_origin() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    client
        .write_all(b"GET http://yarn:8088/a?b HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\n\r\nGET http://yarn:8088/next HTTP/1.1\r\nHost: yarn\r\n\r\n")
        .await
        .unwrap();
    let open = server.next_open_request().await;
    assert_eq!(open.target, target("yarn", 8088));
    let mut peer = open.accept();
    for (path, body) in [("/a?b", "one"), ("/next", "two")] {
        let head = receive_head(&mut peer).await;
        assert!(
            head.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
            "{head}"
        );
        assert!(
            head.to_lowercase().contains("host: yarn:8088\r\n"),
            "{head}"
        );
        assert!(!head.to_lowercase().contains("proxy-"), "{head}");
        peer.send_data(format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{body}").as_bytes())
            .await;
        let response = read_until(&mut client, body).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    }
    // Another origin gets a channel of its own.
    client
        .write_all(b"GET http://hue/ HTTP/1.1\r\nHost: hue\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(server.next_open_request().await.target, target("hue", 80));
}

#[tokio::test]
async fn a_kept_connection_that_the_origin_closed_is_replaced() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    for _ in 0..2 {
        client
            .write_all(b"GET http://yarn/ HTTP/1.1\r\nHost: yarn\r\n\r\n")
            .await
            .unwrap();
        let mut peer = server.next_open_request().await.accept();
        receive_head(&mut peer).await;
        peer.send_data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        read_until(&mut client, "ok").await;
        peer.send_eof().await;
        // The end of the connection arrives in order.
        assert_eq!(peer.receive_to_eof().await, Ok(vec![]));
    }
}

#[tokio::test]
async fn an_upgrade_becomes_a_byte_stream() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    client
        .write_all(b"GET http://ws/ HTTP/1.1\r\nHost: ws\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    let mut peer = server.next_open_request().await.accept();
    let head = receive_head(&mut peer).await.to_lowercase();
    assert!(head.contains("upgrade: websocket"), "{head}");
    peer.send_data(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst frame")
        .await;
    let response = read_until(&mut client, "first frame").await;
    assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
    client.write_all(b"frame").await.unwrap();
    assert_eq!(peer.receive_exactly(5).await, b"frame");
    peer.send_eof().await;
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
}

#[tokio::test]
async fn a_body_is_asked_for_only_after_the_origin_wants_it() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let post = b"POST http://up/ HTTP/1.1\r\nHost: up\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    // The origin wants the body.
    let mut client = fixture.connect().await;
    client.write_all(post).await.unwrap();
    let mut peer = server.next_open_request().await.accept();
    receive_head(&mut peer).await;
    peer.send_data(b"HTTP/1.1 100 Continue\r\n\r\n").await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(head, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.unwrap();
    assert_eq!(peer.receive_exactly(4).await, b"body");
    peer.send_data(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        .await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
    // The origin refuses it: the client hears that first, and sends nothing.
    let mut client = fixture.connect().await;
    client.write_all(post).await.unwrap();
    let mut peer = server.next_open_request().await.accept();
    receive_head(&mut peer).await;
    peer.send_data(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        .await;
    let response = read_until(&mut client, "big").await;
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
}

#[tokio::test]
async fn a_truncated_response_is_never_a_complete_one() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ] {
        for version in ["1.0", "1.1"] {
            let mut fixture = Fixture::new(&[dynamic()]).await;
            let mut server = fixture.attach().await;
            let mut client = fixture.connect().await;
            let request = format!("GET http://yarn/ HTTP/{version}\r\nHost: yarn\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut peer = server.next_open_request().await.accept();
            receive_head(&mut peer).await;
            peer.send_data(head.as_bytes()).await;
            peer.send_data(b"half of the body").await;
            read_until(&mut client, "half of the body").await;
            server.lost.cancel();
            // Either a reset, or an end inside a body whose length or chunks say that more was to come.
            let mut rest = Vec::new();
            let ended = client.read_to_end(&mut rest).await;
            assert!(ended.is_err(), "{version} {head:?}: {rest:?}");
        }
    }
}

#[tokio::test]
async fn a_request_is_held_and_then_answered_with_a_page() {
    let fixture = Fixture::new(&[dynamic()]).await;
    fixture.forwards.set_summary(TunnelSummary {
        name: "emr".to_owned(),
        state: "waiting".to_owned(),
        reason: Some("<refused>".to_owned()),
        ..TunnelSummary::default()
    });
    let request = |accept: &str| {
        format!("GET http://yarn/ HTTP/1.1\r\nHost: yarn\r\nAccept: {accept}\r\n\r\n")
    };
    let mut browser = fixture.connect().await;
    let request_html = request("text/html");
    browser.write_all(request_html.as_bytes()).await.unwrap();
    fixture.until(0, |status| status.held == 1).await;
    fixture.forwards.expect_session(false);
    let page = read_until(&mut browser, "</html>\n").await;
    assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
    assert!(page.contains("emr") && page.contains("waiting"), "{page}");
    assert!(page.contains("&lt;refused&gt;") && page.contains("http-equiv=\"refresh\""));
    // The same without a browser, and the answer to CONNECT.
    for request in [
        request("*/*"),
        "CONNECT yarn:443 HTTP/1.1\r\nHost: yarn:443\r\n\r\n".to_owned(),
    ] {
        let mut client = fixture.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "<refused>.\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("text/plain"), "{answer}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_server_has_the_matching_status() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    for (code, text, status) in [(1, "prohibited", 403), (2, "Connection refused", 502)] {
        for request in [
            "CONNECT yarn:443 HTTP/1.1\r\nHost: yarn:443\r\n\r\n",
            "GET http://yarn:443/ HTTP/1.1\r\nHost: yarn\r\n\r\n",
        ] {
            let mut client = fixture.connect().await;
            client.write_all(request.as_bytes()).await.unwrap();
            server.next_open_request().await.refuse(code, text);
            let answer = read_until(&mut client, ".\n").await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            assert!(
                answer.contains(text) && answer.contains("yarn:443"),
                "{answer}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_not_a_valid_request_is_answered_and_closed() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let _server = fixture.attach().await;
    for (request, status) in [
        ("GET /index.html HTTP/1.1\r\nHost: evil\r\n\r\n", 400),
        ("GET https://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("CONNECT h:0 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
        // A body would take the first bytes of the stream.
        (
            "CONNECT h:1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n",
            400,
        ),
        (
            "CONNECT h:1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "POST http://h/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
        ),
        (
            "POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        (
            "GET http://h/ HTTP/1.1\r\nHost: h\r\n Folded: x\r\n\r\n",
            400,
        ),
    ] {
        let mut client = fixture.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let head = read_until(&mut client, "\r\n\r\n").await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {head}"
        );
    }
    // A header section that is too long; the client still sends when the answer arrives.
    let mut client = fixture.connect().await;
    let long = format!("GET http://h/ HTTP/1.1\r\nX: {}", "x".repeat(600 * 1024));
    let (_, head) = tokio::join!(
        // Fails if the answer comes first.
        async {
            let (_reader, mut writer) = client.split();
            let _ = writer.write_all(long.as_bytes()).await;
        },
        async {}
    );
    let () = head;
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
}

#[tokio::test]
async fn own_pages_are_served_to_loopback_names_alone() {
    let fixture = Fixture::new(&[dynamic()]).await;
    fixture
        .forwards
        .set_pac(Arc::new(|| "function FindProxyForURL() {}".to_owned()));
    let port = fixture.address(0).port();
    for (path, host, status, has) in [
        (
            "/proxy.pac",
            format!("localhost:{port}"),
            200,
            "FindProxyForURL",
        ),
        ("/", format!("127.0.0.1:{port}"), 200, "tunnelctl browse"),
        ("/proxy.pac", format!("evil.example:{port}"), 400, "proxy"),
    ] {
        let mut client = fixture.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut client).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(has), "{answer}");
        assert!(answer.contains("nosniff"), "{answer}");
    }
}

/// Sends a request and returns what its origin gets up to `end`.
async fn at_origin(request: &[u8], end: &str) -> String {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    client.write_all(request).await.unwrap();
    let mut peer = server.next_open_request().await.accept();
    let mut text = String::new();
    while !text.ends_with(end) {
        match peer.from_local.recv().await {
            Some(Message::Data(bytes)) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
            other => panic!("{other:?} after {text:?}"),
        }
    }
    text
}

#[tokio::test]
async fn a_chunked_body_reaches_the_origin_with_every_method() {
    for method in ["GET", "POST", "DELETE"] {
        let request = format!(
            "{method} http://h/search HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n{{\"query\":1}}\r\n0\r\n\r\n"
        );
        let text = at_origin(request.as_bytes(), "0\r\n\r\n").await;
        assert!(text.contains("B\r\n{\"query\":1}\r\n"), "{text}");
        let fields = text
            .to_lowercase()
            .matches("transfer-encoding: chunked")
            .count();
        assert_eq!(fields, 1, "{text}");
    }
}

/// Sends a request to an origin that answers `answer`, and returns the response.
async fn answered(request: &[u8], answer: &[u8]) -> String {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    client.write_all(request).await.unwrap();
    client.shutdown().await.unwrap();
    let mut peer = server.next_open_request().await.accept();
    receive_head(&mut peer).await;
    peer.send_data(answer).await;
    peer.send_eof().await;
    String::from_utf8_lossy(&read_to_end(&mut client).await.unwrap()).into_owned()
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_gets_the_response() {
    let response = answered(
        b"GET http://h/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    )
    .await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\nbody"), "{response}");
}

#[tokio::test]
async fn responses_that_cannot_be_passed_on_are_named() {
    let request = b"GET http://h/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    for answer in [
        &b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let response = answered(request, answer).await;
        assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
        assert!(response.contains("cannot pass on"), "{response}");
    }
    // An HTTP/1.0 client cannot upgrade.
    let old = b"GET http://h/ HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let head = at_origin(old, "\r\n\r\n").await;
    assert!(!head.to_lowercase().contains("upgrade"), "{head}");
}

#[tokio::test]
async fn an_invalid_body_is_the_clients_fault() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut client = fixture.connect().await;
    client
        .write_all(b"POST http://h/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nbody\r\n")
        .await
        .unwrap();
    let _peer = server.next_open_request().await.accept();
    let response = read_until(&mut client, "\n").await;
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
}

#[tokio::test]
async fn a_page_for_a_lost_body_does_not_load_itself_again() {
    tokio::time::pause();
    let fixture = Fixture::new(&[dynamic()]).await;
    for (method, reloads) in [("GET", true), ("POST", false)] {
        let mut client = fixture.connect().await;
        let request = format!(
            "{method} http://h/ HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let page = String::from_utf8(read_to_end(&mut client).await.unwrap()).unwrap();
        assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
        assert_eq!(page.contains("http-equiv=\"refresh\""), reloads, "{method}");
    }
}

#[tokio::test]
async fn clients_that_send_one_byte_of_a_head_shut_nobody_out() {
    let mut fixture = Fixture::new(&[dynamic()]).await;
    let mut server = fixture.attach().await;
    let mut half = Vec::new();
    for _ in 0..600 {
        let mut client = fixture.connect().await;
        client.write_all(b"G").await.unwrap();
        half.push(client);
    }
    let mut client = fixture.connect().await;
    client
        .write_all(b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let mut peer = server.next_open_request().await.accept();
    receive_head(&mut peer).await;
    // The oldest has made room, the newest still waits for the rest of its head.
    assert_reset(&mut half[0]).await;
    let newest = half.last_mut().unwrap();
    let nothing = newest.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}
