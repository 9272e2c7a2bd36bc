//! DNS forwards: queries over UDP and TCP, a channel to the server that ends, sessions that are away, and answers that
//! belong to no query.

mod clients;

use tokio::net::UdpSocket;
use tokio::time::Instant;
use tunneld_proto::status::ForwardKind;

use super::*;
use crate::forward::ssh_session::ChannelTarget;

fn dns(port: u16) -> Forward {
    Forward::Dns {
        listen: tcp(port),
        server: HostPort {
            host: "10.0.0.2".to_owned(),
            port: 53,
        },
    }
}

/// A query for the address of `name`, with recursion, without EDNS.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8]);
    message.extend(name.as_bytes());
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The answer to a query, without records, as a server sends it.
fn answer(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] = 0x81;
    answer[3] = 0x80;
    answer
}

fn servfail(query: &[u8]) -> Vec<u8> {
    let mut answer = answer(query);
    answer[3] = 0x82;
    answer
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    framed
}

/// A client over UDP.
struct Client(UdpSocket);

impl Client {
    async fn new(fixture: &Fixture) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(fixture.address(0)).await.unwrap();
        Self(socket)
    }

    async fn send(&self, message: &[u8]) {
        self.0.send(message).await.unwrap();
    }

    async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let len = self.0.recv(&mut buffer).await.unwrap();
        buffer.truncate(len);
        buffer
    }
}

/// Receives one query at the server's end of a channel.
async fn receive_query(peer: &mut Peer, len: usize) -> Vec<u8> {
    let received = peer.receive_exactly(2 + len).await;
    assert_eq!(received[..2], (len as u16).to_be_bytes());
    received[2..].to_vec()
}

async fn read_answer(client: &mut TcpStream) -> Vec<u8> {
    let len = client.read_u16().await.unwrap();
    let mut message = vec![0; len.into()];
    client.read_exact(&mut message).await.unwrap();
    message
}

#[tokio::test]
async fn queries_over_udp_and_tcp_share_one_channel() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let mut server = fixture.attach().await;
    let (udp, mut tcp) = (Client::new(&fixture).await, fixture.connect().await);
    let (one, other) = (query(7, "one"), query(7, "two"));
    udp.send(&one).await;
    let request = server.next_open_request().await;
    let target = ChannelTarget::Tcp {
        host: b"10.0.0.2".to_vec(),
        port: 53,
    };
    assert_eq!(request.target, target);
    let mut peer = request.accept();
    let first = receive_query(&mut peer, one.len()).await;
    tcp.write_all(&framed(&other)).await.unwrap();
    let second = receive_query(&mut peer, other.len()).await;
    assert_ne!(first[..2], second[..2], "the ids differ");
    assert_eq!((&first[2..], &second[2..]), (&one[2..], &other[2..]));
    // In the other order, and split in the middle of a length.
    let answers = [framed(&answer(&second)), framed(&answer(&first))].concat();
    peer.send_data(&answers[..1]).await;
    peer.send_data(&answers[1..]).await;
    assert_eq!(read_answer(&mut tcp).await, answer(&other));
    assert_eq!(udp.receive().await, answer(&one));
    fixture.until(0, |status| status.connections == 1).await;
    drop(tcp);
    fixture.until(0, |status| status.connections == 0).await;
    let status = fixture.status(0);
    assert_eq!(status.kind, ForwardKind::Dns);
    assert_eq!(status.to.as_deref(), Some("10.0.0.2:53"));
    assert_eq!(status.total, 2);
    let bytes = (one.len() + other.len()) as u64;
    assert_eq!((status.bytes_in, status.bytes_out), (bytes, bytes + 4));
}

#[tokio::test]
async fn a_query_without_a_session_waits_for_it() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let client = Client::new(&fixture).await;
    let asked = query(1, "a");
    client.send(&asked).await;
    fixture.until(0, |status| status.held == 1).await;
    let mut server = fixture.attach().await;
    let mut peer = server.next_open_request().await.accept();
    let received = receive_query(&mut peer, asked.len()).await;
    assert_eq!(fixture.status(0).held, 0);
    peer.send_data(&framed(&answer(&received))).await;
    assert_eq!(client.receive().await, answer(&asked));
}

#[tokio::test(start_paused = true)]
async fn a_query_without_a_session_fails_within_five_seconds() {
    let fixture = Fixture::new(&[dns(0)]).await;
    let (client, mut stream) = (Client::new(&fixture).await, fixture.connect().await);
    let asked = query(1, "a");
    let since = Instant::now();
    stream.write_all(&framed(&asked)).await.unwrap();
    client.send(&asked).await;
    assert_eq!(client.receive().await, servfail(&asked));
    assert_eq!(read_answer(&mut stream).await, servfail(&asked));
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_query_that_no_session_will_serve_fails_at_once() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let client = Client::new(&fixture).await;
    let asked = query(1, "a");
    let since = Instant::now();
    client.send(&asked).await;
    fixture.until(0, |status| status.held == 1).await;
    // Those that wait too.
    fixture.forwards.expect_session(false);
    assert_eq!(client.receive().await, servfail(&asked));
    client.send(&asked).await;
    assert_eq!(client.receive().await, servfail(&asked));
    fixture.forwards.expect_session(true);
    let options = options(Duration::ZERO);
    fixture.forwards.reconcile(&[dns(0)], options).await;
    client.send(&asked).await;
    assert_eq!(client.receive().await, servfail(&asked));
    assert_eq!(since.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn queries_of_a_channel_that_ends_are_asked_again_once() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let mut server = fixture.attach().await;
    let client = Client::new(&fixture).await;
    let asked = query(1, "a");
    client.send(&asked).await;
    for _ in 0..2 {
        let mut peer = server.next_open_request().await.accept();
        receive_query(&mut peer, asked.len()).await;
        peer.send_eof().await;
    }
    assert_eq!(client.receive().await, servfail(&asked));
    let refused = fixture.status(0).refused.unwrap().message;
    assert!(refused.contains("10.0.0.2:53 ended"), "{refused}");
    // The next query gets a new channel.
    client.send(&asked).await;
    let mut peer = server.next_open_request().await.accept();
    let received = receive_query(&mut peer, asked.len()).await;
    peer.send_data(&framed(&answer(&received))).await;
    assert_eq!(client.receive().await, answer(&asked));
}

#[tokio::test]
async fn queries_of_a_lost_session_are_asked_on_the_next_one() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let mut server = fixture.attach().await;
    let client = Client::new(&fixture).await;
    let asked = query(1, "a");
    client.send(&asked).await;
    for _ in 0..3 {
        let mut peer = server.next_open_request().await.accept();
        receive_query(&mut peer, asked.len()).await;
        server.lost.cancel();
        fixture.forwards.detach();
        server = fixture.attach().await;
    }
    let mut peer = server.next_open_request().await.accept();
    let received = receive_query(&mut peer, asked.len()).await;
    peer.send_data(&framed(&answer(&received))).await;
    assert_eq!(client.receive().await, answer(&asked));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_fails_the_query_and_gets_another_connection() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let mut server = fixture.attach().await;
    let client = Client::new(&fixture).await;
    let asked = query(1, "a");
    let since = Instant::now();
    client.send(&asked).await;
    let mut silent = server.next_open_request().await.accept();
    receive_query(&mut silent, asked.len()).await;
    assert_eq!(client.receive().await, servfail(&asked));
    assert!(since.elapsed() < Duration::from_secs(5));
    client.send(&asked).await;
    let mut peer = server.next_open_request().await.accept();
    let received = receive_query(&mut peer, asked.len()).await;
    peer.send_data(&framed(&answer(&received))).await;
    assert_eq!(client.receive().await, answer(&asked));
}

#[tokio::test]
async fn a_refused_channel_fails_the_query_and_shows_in_the_status() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let mut server = fixture.attach().await;
    let client = Client::new(&fixture).await;
    let asked = query(1, "a");
    client.send(&asked).await;
    let request = server.next_open_request().await;
    request.refuse(2, "Connection refused");
    assert_eq!(client.receive().await, servfail(&asked));
    let refused = fixture.status(0).refused.unwrap();
    assert_eq!(
        (refused.code, &*refused.message),
        (Some(2), "Connection refused")
    );
}

#[tokio::test]
async fn messages_that_answer_no_query_are_not_passed_on() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let mut server = fixture.attach().await;
    let client = Client::new(&fixture).await;
    let asked = query(1, "a");
    client.send(&asked).await;
    let mut peer = server.next_open_request().await.accept();
    let received = receive_query(&mut peer, asked.len()).await;
    let mut other_id = answer(&received);
    other_id[1] ^= 1;
    let mut other_name = answer(&received);
    other_name[13] = b'b';
    for wrong in [&[][..], &[1, 2, 3], &received, &other_id, &other_name] {
        peer.send_data(&framed(wrong)).await;
    }
    peer.send_data(&framed(&answer(&received))).await;
    // A second answer to the same query finds none.
    peer.send_data(&framed(&answer(&received))).await;
    assert_eq!(client.receive().await, answer(&asked));
    client.send(&query(2, "next")).await;
    let received = receive_query(&mut peer, query(2, "next").len()).await;
    peer.send_data(&framed(&answer(&received))).await;
    assert_eq!(client.receive().await, answer(&query(2, "next")));
}

#[tokio::test]
async fn a_long_answer_is_shortened_over_udp_and_whole_over_tcp() {
    let mut fixture = Fixture::new(&[dns(0)]).await;
    let mut server = fixture.attach().await;
    let (udp, mut tcp) = (Client::new(&fixture).await, fixture.connect().await);
    let asked = query(1, "big");
    let mut long = answer(&asked);
    long[7] = 1;
    long.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0xea, 0x60]);
    long.extend(noise(60_000));
    udp.send(&asked).await;
    let mut peer = server.next_open_request().await.accept();
    for _ in 0..2 {
        let received = receive_query(&mut peer, asked.len()).await;
        let mut long = long.clone();
        long[..2].copy_from_slice(&received[..2]);
        peer.send_data(&framed(&long)).await;
        if received[1] == 0 {
            let mut short = answer(&asked);
            short[2] |= 2;
            assert_eq!(udp.receive().await, short);
            tcp.write_all(&framed(&asked)).await.unwrap();
        }
    }
    assert!(read_answer(&mut tcp).await == long);
}
