//! The server side of the forwards of an SSH server in this process: the targets it connects to and its listeners.

use std::collections::HashMap;
use std::net::SocketAddr;

use russh::Channel;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

/// The connections and listeners of one session. All of them end on drop.
#[derive(Default)]
pub(crate) struct ServerForwards {
    relays: JoinSet<()>,
    /// By name: `ADDRESS PORT` for TCP, the path for a Unix socket.
    listeners: HashMap<String, JoinSet<()>>,
}

impl ServerForwards {
    /// Connects to `host` and `port` for a channel; without an accept russh refuses the channel.
    pub(crate) async fn connect_tcp(
        &mut self,
        channel: Channel<Msg>,
        (host, port): (&str, u32),
        reply: ChannelOpenHandle,
    ) {
        let port = u16::try_from(port).unwrap_or(0);
        if let Ok(target) = TcpStream::connect((host, port)).await {
            reply.accept().await;
            self.relays.spawn(relay(channel, target));
        }
    }

    /// Connects to the Unix socket `path` for a channel; without an accept russh refuses the channel.
    pub(crate) async fn connect_unix(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
    ) {
        if let Ok(target) = UnixStream::connect(path).await {
            reply.accept().await;
            self.relays.spawn(relay(channel, target));
        }
    }

    /// Listens on `port` of 127.0.0.1, whatever `address` is, and opens a channel per connection.
    /// Returns the bound port, `None` if it cannot be bound.
    pub(crate) async fn listen_tcp(
        &mut self,
        address: &str,
        port: u32,
        client: Handle,
    ) -> Option<u32> {
        let bind = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).ok()?));
        let listener = TcpListener::bind(bind).await.ok()?;
        let port = u32::from(listener.local_addr().ok()?.port());
        let (name, address) = (format!("{address} {port}"), address.to_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((stream, peer)) = listener.accept().await {
                let (client, address) = (client.clone(), address.clone());
                relays.spawn(async move {
                    let ip = peer.ip().to_string();
                    let open =
                        client.channel_open_forwarded_tcpip(address, port, ip, peer.port().into());
                    if let Ok(channel) = open.await {
                        relay(channel, stream).await;
                    }
                });
            }
        });
        self.listeners.insert(name, tasks);
        Some(port)
    }

    /// Listens on the Unix socket `path` and opens a channel per connection. Returns whether it is bound.
    pub(crate) fn listen_unix(&mut self, path: &str, client: Handle) -> bool {
        let Ok(listener) = UnixListener::bind(path) else {
            return false;
        };
        let path_text = path.to_owned();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (client, path) = (client.clone(), path_text.clone());
                relays.spawn(async move {
                    if let Ok(channel) = client.channel_open_forwarded_streamlocal(path).await {
                        relay(channel, stream).await;
                    }
                });
            }
        });
        self.listeners.insert(path.to_owned(), tasks);
        true
    }

    /// Closes the listener of this name and its connections. Returns false if there is none.
    pub(crate) fn cancel(&mut self, name: &str) -> bool {
        self.listeners.remove(name).is_some()
    }
}

async fn relay(channel: Channel<Msg>, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    // Either end may be closed at any time: that is not an error.
    let _ = copy_bidirectional(&mut channel.into_stream(), &mut stream).await;
}
