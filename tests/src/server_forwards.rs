//! The far side of the forwards of an SSH server in this process: what it dials and where it listens.

use std::collections::HashMap;
use std::net::SocketAddr;

use russh::Channel;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

/// What one session has dialled and listens on.
#[derive(Default)]
pub(crate) struct FarSide {
    carried: JoinSet<()>,
    listening: HashMap<String, JoinSet<()>>,
}

impl FarSide {
    /// Dials `host` and `port` for a channel.
    pub(crate) async fn dial(
        &mut self,
        channel: Channel<Msg>,
        (host, port): (&str, u32),
        reply: ChannelOpenHandle,
    ) {
        let port = u16::try_from(port).unwrap_or(0);
        if let Ok(target) = TcpStream::connect((host, port)).await {
            reply.accept().await;
            self.carried.spawn(carry(channel, target));
        }
    }

    /// Dials the Unix socket `path` for a channel.
    pub(crate) async fn dial_unix(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
    ) {
        if let Ok(target) = UnixStream::connect(path).await {
            reply.accept().await;
            self.carried.spawn(carry(channel, target));
        }
    }

    /// Listens on `port` of loopback for the client; returns the port bound.
    pub(crate) async fn listen(&mut self, address: &str, port: u32, to: Handle) -> Option<u32> {
        let at = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).ok()?));
        let listener = TcpListener::bind(at).await.ok()?;
        let port = u32::from(listener.local_addr().ok()?.port());
        let (name, asked) = (format!("{address} {port}"), address.to_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((stream, peer)) = listener.accept().await {
                let (to, asked) = (to.clone(), asked.clone());
                carried.spawn(async move {
                    let ip = peer.ip().to_string();
                    let open = to.channel_open_forwarded_tcpip(asked, port, ip, peer.port().into());
                    if let Ok(channel) = open.await {
                        carry(channel, stream).await;
                    }
                });
            }
        });
        self.listening.insert(name, tasks);
        Some(port)
    }

    /// Listens on the Unix socket `path` for the client.
    pub(crate) fn listen_unix(&mut self, path: &str, to: Handle) -> bool {
        let Ok(listener) = UnixListener::bind(path) else {
            return false;
        };
        let asked = path.to_owned();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (to, asked) = (to.clone(), asked.clone());
                carried.spawn(async move {
                    if let Ok(channel) = to.channel_open_forwarded_streamlocal(asked).await {
                        carry(channel, stream).await;
                    }
                });
            }
        });
        self.listening.insert(path.to_owned(), tasks);
        true
    }

    /// Listens there no more; false where it did not.
    pub(crate) fn forget(&mut self, name: &str) -> bool {
        self.listening.remove(name).is_some()
    }
}

async fn carry(channel: Channel<Msg>, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    // Either end may go at any time.
    let _ = copy_bidirectional(&mut channel.into_stream(), &mut stream).await;
}
