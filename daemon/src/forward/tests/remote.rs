//! Remote forwards: requests to the server, and the channels that it opens.

use tokio::net::TcpListener;

use super::fake_session::GlobalRequest;
use super::*;

fn remote(listen: u16, target: Option<u16>) -> Forward {
    Forward::Remote {
        listen: tcp(listen),
        to: target.map(|port| to("127.0.0.1", port)),
    }
}

/// Attaches a session whose server answers the requested forwards in order: `Some` grants with a port, `None` refuses.
/// Returns the messages of the failures too.
async fn attach(fixture: &mut Fixture, answers: &[Option<u16>]) -> (Server, Vec<String>) {
    let (session, incoming, mut server) = new_session();
    let granted = async {
        for answer in answers {
            server.answer(*answer).await;
        }
        server
    };
    let (failures, server) = tokio::join!(fixture.forwards.attach(session, incoming), granted);
    let failures = failures.into_iter().map(|failure| failure.message);
    (server, failures.collect())
}

async fn target() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn a_channel_is_connected_to_the_configured_target() {
    let (target, port) = target().await;
    let mut fixture = Fixture::new(&[remote(0, Some(port))]).await;
    assert_eq!(fixture.status(0).state, ForwardState::Pending);
    let (server, failures) = attach(&mut fixture, &[Some(4040)]).await;
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(fixture.status(0).listen, "localhost:4040");
    let (mut peer, _) = server.connect(tcp(0), 4040).await;
    let (mut accepted, _) = target.accept().await.unwrap();
    peer.send_data(b"in").await;
    peer.send_eof().await;
    assert_eq!(read_to_end(&mut accepted).await.unwrap(), b"in");
    write_all_and_finish(&mut accepted, b"out").await;
    assert_eq!(peer.receive_to_eof().await, Ok(b"out".to_vec()));
    fixture.until_no_connection().await;
    assert_eq!(
        (fixture.status(0).bytes_in, fixture.status(0).bytes_out),
        (2, 3)
    );
    fixture.forwards.detach();
    assert_eq!(fixture.status(0).state, ForwardState::Pending);
    assert_eq!(fixture.status(0).listen, "localhost:0");
}

#[tokio::test]
async fn two_forwards_that_requested_port_0_are_told_apart_by_their_port() {
    let (_first, first_port) = target().await;
    let (second, second_port) = target().await;
    let forwards = [remote(0, Some(first_port)), remote(0, Some(second_port))];
    let mut fixture = Fixture::new(&forwards).await;
    let (server, _) = attach(&mut fixture, &[Some(4040), Some(4041)]).await;
    let _peer = server.connect(tcp(0), 4041).await;
    second.accept().await.unwrap();
}

#[tokio::test]
async fn a_channel_whose_port_is_not_granted_yet_waits_for_its_own_forward() {
    let (first, first_port) = target().await;
    let (second, second_port) = target().await;
    let forwards = [remote(0, Some(first_port)), remote(0, Some(second_port))];
    let mut fixture = Fixture::new(&forwards).await;
    let (session, incoming, mut server) = new_session();
    let opened = async {
        server.answer(Some(4040)).await;
        // The second forward's listener has a client before the server has answered its request.
        let early = server.connect(tcp(0), 4041).await;
        let unknown = server.connect(tcp(0), 4042).await;
        server.answer(Some(4041)).await;
        (early, unknown, server)
    };
    let attached = fixture.forwards.attach(session, incoming);
    let (_, (_early, (_, unknown), _server)) = tokio::join!(attached, opened);
    second.accept().await.unwrap();
    assert!(unknown.await.is_err(), "no forward has port 4042");
    assert!(futures_util::FutureExt::now_or_never(first.accept()).is_none());
}

#[tokio::test]
async fn an_unreachable_target_refuses_the_channel() {
    let (listener, port) = target().await;
    drop(listener);
    let mut fixture = Fixture::new(&[remote(1, Some(port))]).await;
    let (server, _) = attach(&mut fixture, &[Some(1)]).await;
    let (_peer, refused) = server.connect(tcp(1), 1).await;
    assert_eq!(refused.await.unwrap(), "Connection refused");
    let shown = fixture.status(0).refused.unwrap();
    assert!(shown.message.contains("127.0.0.1"), "{}", shown.message);
}

#[tokio::test]
async fn channels_that_the_server_opens_do_not_shut_out_local_forwards() {
    let (target, port) = target().await;
    let mut fixture = Fixture::new(&[local(0), remote(1, Some(port)), remote(2, None)]).await;
    let (mut server, _) = attach(&mut fixture, &[Some(1), Some(2)]).await;
    let mut strict = options(Duration::from_secs(30));
    strict.forwarding.max_connections = 2;
    let forwards = [local(0), remote(1, Some(port)), remote(2, None)];
    fixture.forwards.reconcile(&forwards, strict).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.push(server.connect(tcp(1), 1).await);
        target.accept().await.unwrap();
        kept.push(server.connect(tcp(2), 2).await);
    }
    let (_peer, refused) = server.connect(tcp(1), 1).await;
    assert!(refused.await.is_err(), "dropped without an answer");
    // Channels arrive in order, so the earlier ones are counted. A rising count sends no notification: `until` would hang.
    assert_eq!(fixture.status(2).connections, 2);
    pair(&fixture, &mut server).await;
}

#[tokio::test]
async fn a_channel_for_a_forward_that_was_not_requested_is_refused() {
    let (_target, port) = target().await;
    let mut fixture = Fixture::new(&[remote(1, Some(port))]).await;
    let (server, _) = attach(&mut fixture, &[Some(1)]).await;
    let (mut peer, refused) = server.connect(tcp(2), 2).await;
    assert_eq!(peer.receive_to_eof().await, Err(vec![]));
    assert!(refused.await.is_err(), "dropped without an answer");
}

#[tokio::test]
async fn a_refused_forward_is_reported_and_requested_again() {
    let (_target, port) = target().await;
    let mut fixture = Fixture::new(&[local(0), remote(1, Some(port))]).await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let (mut server, failures) = attach(&mut fixture, &[None]).await;
    assert_eq!(failures, ["the port is taken"]);
    assert_eq!(fixture.status(1).state, ForwardState::Failed);
    assert_eq!(
        fixture.status(1).error.unwrap().kind.as_str(),
        "remote_forward_refused"
    );
    assert_eq!(fixture.status(0).state, ForwardState::Listening);
    server.answer(None).await;
    server.answer(Some(1)).await;
    fixture
        .until(1, |status| status.state == ForwardState::Listening)
        .await;
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test]
async fn attach_waits_at_most_ten_seconds_for_a_silent_server() {
    let (_target, port) = target().await;
    let mut fixture = Fixture::new(&[remote(1, Some(port)), remote(2, Some(port))]).await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let (session, incoming, _server) = new_session();
    let failures = fixture.forwards.attach(session, incoming).await;
    assert_eq!((failures.len(), start.elapsed().as_secs()), (2, 10));
}

#[tokio::test]
async fn a_reconfiguration_requests_new_and_cancels_removed_forwards_on_a_live_session() {
    let (_target, port) = target().await;
    let (other, other_port) = target().await;
    let mut fixture = Fixture::new(&[remote(1, Some(port)), remote(2, Some(port))]).await;
    let (mut server, _) = attach(&mut fixture, &[Some(1), Some(2)]).await;
    // One gets another target, one is removed, one is added.
    let desired = [remote(1, Some(other_port)), remote(3, None)];
    let options = options(Duration::from_secs(30));
    fixture.forwards.reconcile(&desired, options.clone()).await;
    let Some(GlobalRequest::Cancel(cancelled)) = server.global_requests.recv().await else {
        panic!("removed forwards are cancelled before new ones are requested");
    };
    assert_eq!(cancelled, tcp(2));
    assert_eq!(server.answer(Some(3)).await, tcp(3));
    fixture
        .until(1, |status| status.state == ForwardState::Listening)
        .await;
    assert_eq!(fixture.status(0).state, ForwardState::Listening);
    let _peer = server.connect(tcp(1), 1).await;
    other.accept().await.unwrap();
    fixture.forwards.reconcile(&desired, options).await;
    assert!(
        server.global_requests.try_recv().is_err(),
        "an unchanged configuration sends no request"
    );
}

#[tokio::test]
async fn reverse_socks_connects_to_requested_destinations_that_are_permitted() {
    let (target, port) = target().await;
    let mut fixture = Fixture::new(&[remote(1, None)]).await;
    let (server, _) = attach(&mut fixture, &[Some(1)]).await;
    let (mut peer, _) = server.connect(tcp(1), 1).await;
    let mut request = vec![5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1];
    request.extend_from_slice(&port.to_be_bytes());
    request.extend_from_slice(b"payload");
    peer.send_data(&request).await;
    let (mut accepted, _) = target.accept().await.unwrap();
    let answer = [5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(peer.receive_exactly(12).await, answer);
    peer.send_eof().await;
    assert_eq!(read_to_end(&mut accepted).await.unwrap(), b"payload");
    write_all_and_finish(&mut accepted, b"reply").await;
    assert_eq!(peer.receive_to_eof().await, Ok(b"reply".to_vec()));

    let mut strict = options(Duration::ZERO);
    strict.forwarding.permit_remote_open = vec!["db:5432".to_owned()];
    fixture.forwards.reconcile(&[remote(1, None)], strict).await;
    let (mut peer, _) = server.connect(tcp(1), 1).await;
    peer.send_data(&request).await;
    let answer = [5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(peer.receive_exactly(12).await, answer);
}
