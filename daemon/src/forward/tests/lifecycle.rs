//! Listeners and held connections while sessions come and go and the configuration changes.

use tokio::net::TcpListener;

use super::*;

/// A request to connect to 10.0.0.1, port 80.
const SOCKS4_REQUEST: &[u8] = b"\x04\x01\x00\x50\x0a\x00\x00\x01\0";

#[tokio::test]
async fn a_connection_is_held_until_a_session_is_attached() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut client = fixture.connect().await;
    client.write_all(b"early").await.unwrap();
    fixture.until(0, |status| status.held == 1).await;
    let mut server = fixture.attach().await;
    let mut peer = server.next_open_request().await.accept();
    assert_eq!(peer.receive_exactly(5).await, b"early");
    assert_eq!(
        (fixture.status(0).held, fixture.status(0).connections),
        (0, 1)
    );
}

#[tokio::test]
async fn a_held_connection_is_reset_after_the_hold_time() {
    let fixture = Fixture::new(&[local(0)]).await;
    let mut client = fixture.connect().await;
    fixture.until(0, |status| status.held == 1).await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    assert_reset(&mut client).await;
    // The wait began a moment before the clock was paused.
    assert!((25..=30).contains(&start.elapsed().as_secs()));
}

#[tokio::test]
async fn with_a_hold_time_of_zero_a_connection_is_reset_at_once() {
    let mut fixture = Fixture::new(&[local(0), dynamic()]).await;
    let forwards = [local(0), dynamic()];
    fixture
        .forwards
        .reconcile(&forwards, options(Duration::ZERO))
        .await;
    for index in 0..2 {
        let mut client = TcpStream::connect(fixture.address(index)).await.unwrap();
        if index == 1 {
            client.write_all(SOCKS4_REQUEST).await.unwrap();
        }
        assert_reset(&mut client).await;
    }
}

#[tokio::test]
async fn a_connection_whose_session_is_lost_while_opening_uses_the_next_session() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut first = fixture.attach().await;
    let client = fixture.connect().await;
    let open = first.next_open_request().await;
    first.lost.cancel();
    fixture.until(0, |status| status.held == 1).await;
    fixture.forwards.detach();
    drop(open);
    let mut second = fixture.attach().await;
    let mut peer = second.next_open_request().await.accept();
    drop(client);
    assert_eq!(peer.receive_to_eof().await, Ok(vec![]));
}

#[tokio::test]
async fn a_client_that_gives_up_is_no_longer_held() {
    let fixture = Fixture::new(&[local(0)]).await;
    for reset in [false, true] {
        let client = fixture.connect().await;
        fixture.until(0, |status| status.held == 1).await;
        if reset {
            let _ = client.try_write(b"x");
            let linger = Some(Duration::ZERO);
            socket2::SockRef::from(&client).set_linger(linger).unwrap();
        }
        drop(client);
        fixture.until_no_connection().await;
    }
}

#[tokio::test]
async fn a_client_that_sent_data_and_eof_is_held() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut client = fixture.connect().await;
    write_all_and_finish(&mut client, b"question").await;
    fixture.until(0, |status| status.held == 1).await;
    let mut server = fixture.attach().await;
    let mut peer = server.next_open_request().await.accept();
    assert_eq!(peer.receive_to_eof().await, Ok(b"question".to_vec()));
    peer.send_data(b"answer").await;
    peer.send_eof().await;
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"answer");
}

#[tokio::test]
async fn connections_of_a_failed_tunnel_are_reset_at_once() {
    let fixture = Fixture::new(&[local(0), dynamic()]).await;
    let mut held = fixture.connect().await;
    fixture.until(0, |status| status.held == 1).await;
    let start = tokio::time::Instant::now();
    fixture.forwards.expect_session(false);
    assert_reset(&mut held).await;
    let client = TcpStream::connect(fixture.address(0)).await;
    assert_reset(&mut client.unwrap()).await;
    // A client of a dynamic forward is reset when it has said that it speaks SOCKS: HTTP gets a page.
    let mut client = TcpStream::connect(fixture.address(1)).await.unwrap();
    client.write_all(SOCKS4_REQUEST).await.unwrap();
    assert_reset(&mut client).await;
    assert!(start.elapsed() < Duration::from_secs(30), "not held");

    fixture.forwards.expect_session(true);
    let _held = fixture.connect().await;
    fixture.until(0, |status| status.held == 1).await;
}

#[tokio::test]
async fn the_last_refusal_of_the_server_is_in_the_status() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    assert_eq!(fixture.status(0).refused, None);
    for (count, text) in [(1, "open failed"), (2, "open failed"), (3, "no route")] {
        let mut client = fixture.connect().await;
        server.next_open_request().await.refuse(1, text);
        assert_reset(&mut client).await;
        let refused = fixture.status(0).refused.unwrap();
        assert_eq!((refused.code, refused.message.as_str()), (Some(1), text));
        assert_eq!(refused.count, count);
    }
}

#[tokio::test]
async fn the_oldest_held_connection_is_reset_when_too_many_are_held() {
    let fixture = Fixture::new(&[local(0)]).await;
    let mut clients = Vec::new();
    for _ in 0..super::super::forward_state::MAX_HELD {
        clients.push(fixture.connect().await);
    }
    fixture.until(0, |status| status.held == 256).await;
    let _one_more = fixture.connect().await;
    assert_reset(&mut clients[0]).await;
    assert_eq!(fixture.status(0).held, 256);
}

#[tokio::test]
async fn a_connection_beyond_the_maximum_is_reset_at_once() {
    let mut fixture = Fixture::new(&[local(0), local(0)]).await;
    let mut server = fixture.attach().await;
    raise_descriptor_limit();
    let mut kept = Vec::new();
    for _ in 0..tunneld_config::model::DEFAULT_MAX_CONNECTIONS {
        kept.push(pair(&fixture, &mut server).await);
    }
    assert_reset(&mut fixture.connect().await).await;
    // The other forward is not affected.
    let other = TcpStream::connect(fixture.address(1)).await.unwrap();
    kept.push((other, server.next_open_request().await.accept()));
    kept.swap(0, 1024);
    kept.pop();
    while fixture.status(0).connections == 1024 {
        tokio::task::yield_now().await;
    }
    pair(&fixture, &mut server).await;
}

#[tokio::test]
async fn the_maximum_of_connections_is_configurable() {
    let mut fixture = Fixture::new(&[]).await;
    let mut options = options(Duration::from_secs(30));
    options.forwarding.max_connections = 1;
    fixture.forwards.reconcile(&[local(0)], options).await;
    let mut server = fixture.attach().await;
    let _first = pair(&fixture, &mut server).await;
    assert_reset(&mut fixture.connect().await).await;
}

/// Raises the limit on open files: both ends of each connection are in this process.
#[cfg(unix)]
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum.map_or(65536, |maximum| maximum.min(65536));
    let limit = Rlimit {
        current: Some(current),
        maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}
#[cfg(not(unix))]
fn raise_descriptor_limit() {}

#[tokio::test]
async fn a_busy_port_is_reported_and_bound_when_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let fixture = Fixture::new(&[local(port), local(0)]).await;
    let failed = |status: &ForwardStatus| status.state == ForwardState::Failed;
    fixture.until(0, failed).await;
    let error = fixture.status(0).error.unwrap();
    assert_eq!(error.kind.as_str(), "bind_failed");
    assert!(
        error.message.contains(&format!("127.0.0.1:{port}")),
        "{error:?}"
    );
    assert_eq!(fixture.status(1).state, ForwardState::Listening);
    drop(taken);
    tokio::time::pause();
    fixture
        .until(0, |status| status.state == ForwardState::Listening)
        .await;
    assert_eq!(fixture.status(0).error, None);
}

#[tokio::test]
async fn one_port_serves_both_loopback_addresses() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let port = fixture.address(0).port();
    if TcpListener::bind("[::1]:0").await.is_ok() {
        let _client = TcpStream::connect(("::1", port)).await.unwrap();
        server.next_open_request().await;
    }
    let _client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    server.next_open_request().await;
    assert!(!fixture.status(0).exposed);
}

#[tokio::test]
async fn a_forward_that_other_machines_can_reach_is_marked_exposed() {
    let any = |bind| Forward::Dynamic {
        listen: ListenAddr::Tcp { bind, port: 0 },
    };
    let fixture = Fixture::new(&[
        any(BindAddr::Any),
        any(BindAddr::Host("127.0.0.1".to_owned())),
    ])
    .await;
    let status = fixture.status(0);
    assert_eq!(status.state, ForwardState::Listening);
    assert!(status.exposed && !fixture.status(1).exposed);
    let port = status
        .listen
        .strip_prefix("*:")
        .unwrap()
        .parse::<u16>()
        .unwrap();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap();
}

#[tokio::test]
async fn a_reconfiguration_affects_only_the_forwards_that_changed() {
    let mut fixture = Fixture::new(&[local(0), dynamic()]).await;
    let mut server = fixture.attach().await;
    let (mut client, mut peer) = pair(&fixture, &mut server).await;
    let (kept, removed) = (fixture.address(0), fixture.address(1));
    let other = Forward::Local {
        listen: tcp(removed.port()),
        to: to("other", 1),
    };
    let options = options(Duration::from_secs(30));
    fixture
        .forwards
        .reconcile(&[other.clone(), local(0)], options.clone())
        .await;
    assert_eq!(fixture.address(1), kept);
    assert_eq!(fixture.address(0), removed, "its port was free at once");
    client.write_all(b"still").await.unwrap();
    assert_eq!(peer.receive_exactly(5).await, b"still");
    fixture.forwards.reconcile(&[other], options).await;
    assert!(TcpStream::connect(kept).await.is_err());
    peer.send_data(b"here").await;
    client.read_exact(&mut [0; 4]).await.unwrap();
}

#[tokio::test]
async fn close_drains_then_resets_and_the_forwards_can_start_again() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let address = fixture.address(0);
    let (mut client, _peer) = pair(&fixture, &mut server).await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    fixture.forwards.close(Duration::from_secs(2)).await;
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_reset(&mut client).await;
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(fixture.status(0).state, ForwardState::Pending);
    assert_eq!(fixture.status(0).total, 1);

    let forwards = [local(0)];
    fixture
        .forwards
        .reconcile(&forwards, options(Duration::from_secs(30)))
        .await;
    let mut server = fixture.attach().await;
    pair(&fixture, &mut server).await;
    fixture.forwards.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_connection_that_ends_within_the_grace_period_ends_in_order() {
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    let (mut client, mut peer) = pair(&fixture, &mut server).await;
    let end = async {
        write_all_and_finish(&mut client, b"last").await;
        assert_eq!(peer.receive_to_eof().await, Ok(b"last".to_vec()));
        peer.send_eof().await;
        read_to_end(&mut client).await
    };
    let ((), ended) = tokio::join!(fixture.forwards.close(Duration::from_secs(60)), end);
    assert_eq!(ended.unwrap(), b"");
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_forwards_and_is_removed_with_its_forward() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let forward = Forward::Local {
        listen: ListenAddr::Unix(path.clone()),
        to: Endpoint::Unix("/far/socket".into()),
    };
    let mut fixture = Fixture::new(&[forward]).await;
    let mut server = fixture.attach().await;
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    let open = server.next_open_request().await;
    assert_eq!(open.target, (&Endpoint::Unix("/far/socket".into())).into());
    let mut peer = open.accept();
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(peer.receive_to_eof().await, Ok(b"hello".to_vec()));
    fixture.forwards.close(Duration::ZERO).await;
    assert!(!path.exists());
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_whose_file_was_removed_is_bound_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let forward = Forward::Local {
        listen: ListenAddr::Unix(path.clone()),
        to: to("target", 80),
    };
    let mut fixture = Fixture::new(&[]).await;
    let mut options = options(Duration::from_secs(30));
    options.forwarding.unlink_socket = true;
    fixture.forwards.reconcile(&[forward], options).await;
    let mut server = fixture.attach().await;
    let mut before = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut peer = server.next_open_request().await.accept();

    // Another process that has taken the path keeps it for as long as it listens.
    std::fs::remove_file(&path).unwrap();
    let other = tokio::net::UnixListener::bind(&path).unwrap();
    let failed = |status: &ForwardStatus| status.state == ForwardState::Failed;
    fixture.until(0, failed).await;
    let reached = tokio::net::UnixStream::connect(&path).await;
    assert!(reached.is_ok() && other.accept().await.is_ok());

    drop(other);
    let listening = |status: &ForwardStatus| status.state == ForwardState::Listening;
    fixture.until(0, listening).await;
    let mut after = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut new_peer = server.next_open_request().await.accept();
    for (client, peer) in [(&mut before, &mut peer), (&mut after, &mut new_peer)] {
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(peer.receive_to_eof().await, Ok(b"hello".to_vec()));
    }
}

impl Fixture {
    /// Waits until no connection is open.
    pub(super) async fn until_no_connection(&self) {
        self.until(0, |status| status.connections == 0).await;
    }
}

/// Returns a listener on `::1` alone, and its port, which is free on `127.0.0.1`.
async fn holder_of_ipv6() -> (tokio::net::TcpListener, u16) {
    loop {
        let v6 = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
        let port = v6.local_addr().unwrap().port();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return (v6, port);
        }
    }
}

#[tokio::test]
async fn an_address_that_another_program_holds_is_shown_and_bound_when_it_is_free() {
    let (holder, port) = holder_of_ipv6().await;
    let mut fixture = Fixture::new(&[local(port)]).await;
    let mut server = fixture.attach().await;
    let status = fixture.status(0);
    assert_eq!(status.state, ForwardState::Listening, "127.0.0.1 works");
    let message = status.error.expect("the missing address is shown").message;
    assert!(message.contains(&format!("[::1]:{port}")), "{message}");
    assert!(message.contains("in use"), "{message}");
    pair(&fixture, &mut server).await;

    drop(holder);
    fixture.until(0, |status| status.error.is_none()).await;
    let mut client = TcpStream::connect(("::1", port)).await.unwrap();
    let peer = server.next_open_request().await.accept();
    peer.send_data(b"!").await;
    client.read_exact(&mut [0; 1]).await.unwrap();
    pair(&fixture, &mut server).await;
}
