//! Tests of a tunnel's forwards with real loopback sockets and an SSH session in memory.

mod binding;
mod dns;
#[cfg(unix)]
mod exhaustion;
mod fake_session;
mod http;
mod lifecycle;
mod relay;
mod remote;
mod socks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tunneld_proto::status::{ForwardState, ForwardStatus};

use super::{ForwardOptions, Forwards};
use fake_session::{FakeSession, Peer, Server, new_session};
use tunneld_config::addr::{BindAddr, Endpoint, HostPort, ListenAddr};
use tunneld_config::model::{Forward, Forwarding};

/// The forwards of one tunnel and their change notification.
struct Fixture {
    forwards: Forwards<FakeSession>,
    changed: Arc<Notify>,
}

fn options(hold: Duration) -> ForwardOptions {
    ForwardOptions {
        hold,
        forwarding: Forwarding {
            exit_on_failure: false,
            unlink_socket: false,
            socket_mask: 0o177,
            max_connections: tunneld_config::model::DEFAULT_MAX_CONNECTIONS,
            permit_remote_open: vec![],
            proxy_login: None,
        },
    }
}

fn tcp(port: u16) -> ListenAddr {
    ListenAddr::Tcp {
        bind: BindAddr::Loopback,
        port,
    }
}

fn to(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp(HostPort {
        host: host.to_owned(),
        port,
    })
}

fn local(port: u16) -> Forward {
    Forward::Local {
        listen: tcp(port),
        to: to("target", 80),
    }
}

fn dynamic() -> Forward {
    Forward::Dynamic { listen: tcp(0) }
}

impl Fixture {
    async fn new(forwards: &[Forward]) -> Self {
        let changed = Arc::new(Notify::new());
        let mut fixture = Self {
            forwards: Forwards::new(
                "t",
                Arc::clone(&changed),
                crate::forward::ServerListeners::default(),
            ),
            changed,
        };
        let options = options(Duration::from_secs(30));
        fixture.forwards.reconcile(forwards, options).await;
        fixture
    }

    /// Attaches a session. Fails if a forward does not listen, so it is for local forwards only.
    async fn attach(&mut self) -> Server {
        let (session, incoming, server) = new_session();
        let failures = self.forwards.attach(session, incoming).await;
        assert_eq!(failures, vec![]);
        server
    }

    fn status(&self, index: usize) -> ForwardStatus {
        self.forwards.statuses().swap_remove(index)
    }

    fn address(&self, index: usize) -> SocketAddr {
        let status = self.status(index);
        assert_eq!(status.state, ForwardState::Listening, "{status:?}");
        status.listen.parse().unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address(0)).await.unwrap()
    }

    /// Waits until the status of a forward satisfies `condition`.
    async fn until(&self, index: usize, condition: impl Fn(&ForwardStatus) -> bool) {
        while !condition(&self.status(index)) {
            self.changed.notified().await;
        }
    }
}

/// Returns a connected client and the server's end of its channel.
async fn pair(fixture: &Fixture, server: &mut Server) -> (TcpStream, Peer) {
    let client = fixture.connect().await;
    (client, server.next_open_request().await.accept())
}

async fn read_to_end(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.map(|_| bytes)
}

async fn assert_reset(client: &mut TcpStream) {
    let error = read_to_end(client).await.expect_err("a reset, not EOF");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Returns pseudo-random bytes (xorshift), so that lost, repeated or swapped bytes are noticed.
fn noise(count: usize) -> Vec<u8> {
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    (0..count)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

async fn write_all_and_finish(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
}
