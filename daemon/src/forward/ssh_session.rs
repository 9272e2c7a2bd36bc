//! The SSH session as the forwards use it: traits for the session and its channels, and their implementation for
//! [`session::Session`]. They exist so that the tests can run forwards over a session in memory
//! (`tests/fake_session.rs`).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::failure::Failure;
use crate::session::{self, OpenError, Session};
use tunneld_config::addr::{Endpoint, ListenAddr};

/// SSH_OPEN_CONNECT_FAILED (RFC 4254 §5.1).
const CONNECT_FAILED: u32 = 2;

/// The destination to which the server connects a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelTarget {
    /// A TCP port, opened as `direct-tcpip` (RFC 4254 §7.2).
    Tcp {
        /// A name or a textual address. Bytes, because a SOCKS client may send a name that is not UTF-8.
        host: Vec<u8>,
        /// The TCP port that the server connects to, 1 to 65535.
        port: u16,
    },
    /// A Unix socket, opened as `direct-streamlocal@openssh.com`.
    Unix(PathBuf),
}

impl From<&Endpoint> for ChannelTarget {
    fn from(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::Tcp(tcp) => Self::Tcp {
                host: tcp.host.clone().into_bytes(),
                port: tcp.port,
            },
            Endpoint::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

/// An established SSH session. Clones are handles to the same session.
pub trait SshSession: Clone + Send + Sync + 'static {
    /// An open channel, whose two directions end independently.
    type Channel: SshChannel;
    /// A channel that the server wants to open.
    type Incoming: IncomingChannel<Channel = Self::Channel>;

    /// Opens a channel that the server connects to `target`. `originator` is the client's address, for the server's log;
    /// `None` if the client has none (Unix sockets).
    ///
    /// # Errors
    /// The server refuses, does not answer within the session's deadline, or the session ends.
    fn open(
        &self,
        target: &ChannelTarget,
        originator: Option<SocketAddr>,
    ) -> impl Future<Output = Result<Self::Channel, OpenError>> + Send;
    /// Asks the server to listen on `listen`. Returns the port that it bound, 0 for a Unix socket.
    ///
    /// # Errors
    /// The server refuses, does not answer, or the session ends.
    fn request_forward(
        &self,
        listen: &ListenAddr,
    ) -> impl Future<Output = Result<u16, Failure>> + Send;
    /// Names the server by its host key, however it is reached.
    fn server(&self) -> String;
    /// Asks the server to stop listening on `listen`, where it bound `bound_port`; 0 if that is not known.
    ///
    /// # Errors
    /// The server refuses, does not answer, or the session ends.
    fn cancel_forward(
        &self,
        listen: &ListenAddr,
        bound_port: u16,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Waits until the session has ended. Cancel-safe.
    fn closed(&self) -> impl Future<Output = ()> + Send;
    /// Returns whether the session has ended.
    fn is_closed(&self) -> bool;
}

/// A channel that the server wants to open for a remote forward. Dropping it refuses the channel.
pub trait IncomingChannel: Send + 'static {
    /// The open channel after [`IncomingChannel::accept`].
    type Channel;
    /// Returns the address of the forward, as it was requested.
    fn listen(&self) -> &ListenAddr;
    /// Returns the port that the server bound for the forward; differs from the requested port only if that was 0.
    fn port(&self) -> u16;
    /// Accepts the channel.
    ///
    /// # Errors
    /// The session has ended.
    fn accept(self) -> impl Future<Output = io::Result<Self::Channel>> + Send;
    /// Refuses the channel; `why` is sent to the server as the description (RFC 4254 §5.1).
    fn refuse(self, why: &str) -> impl Future<Output = ()> + Send;
}

/// An open channel as one stream, for a handshake. [`session::Channel`] documents how EOF, CLOSE and the loss of the
/// session show.
pub trait SshChannel: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The half that receives from the server.
    type Reader: SshChannelReader;
    /// The half that sends to the server.
    type Writer: SshChannelWriter;
    /// Splits the channel into halves that end independently.
    fn split(self) -> (Self::Reader, Self::Writer);
}

/// The receiving half of a channel.
pub trait SshChannelReader: Send {
    /// Waits for data and appends everything that is queued to `pieces`, about `max_bytes` at most. Returns `false` after
    /// the server's EOF. Cancel-safe.
    ///
    /// # Errors
    /// The server closed the channel without EOF, or the session ended.
    fn next_pieces(
        &mut self,
        pieces: &mut Vec<Bytes>,
        max_bytes: usize,
    ) -> impl Future<Output = io::Result<bool>> + Send;
}

/// The sending half of a channel. `shutdown` sends EOF.
pub trait SshChannelWriter: AsyncWrite + Unpin + Send {
    /// Waits until the server accepts no more data: its CLOSE arrived, or the session ended. Cancel-safe.
    fn closed(&self) -> impl Future<Output = ()> + Send;
}

impl SshSession for Session {
    type Channel = session::Channel;
    type Incoming = session::Incoming;

    async fn open(
        &self,
        target: &ChannelTarget,
        originator: Option<SocketAddr>,
    ) -> Result<session::Channel, OpenError> {
        match target {
            ChannelTarget::Tcp { host, port } => {
                self.open_direct_tcpip(host, *port, originator).await
            }
            ChannelTarget::Unix(path) => {
                let path = path.as_os_str().as_encoded_bytes();
                self.open_direct_streamlocal(path).await
            }
        }
    }

    async fn request_forward(&self, listen: &ListenAddr) -> Result<u16, Failure> {
        Session::request_forward(self, listen).await
    }

    fn server(&self) -> String {
        self.info().host_key.clone()
    }

    async fn cancel_forward(&self, listen: &ListenAddr, bound_port: u16) -> Result<(), Failure> {
        Session::cancel_forward(self, listen, bound_port).await
    }

    async fn closed(&self) {
        Session::closed(self).await;
    }

    fn is_closed(&self) -> bool {
        Session::is_closed(self)
    }
}

impl IncomingChannel for session::Incoming {
    type Channel = session::Channel;

    fn listen(&self) -> &ListenAddr {
        &self.listen
    }

    fn port(&self) -> u16 {
        self.port
    }

    async fn accept(self) -> io::Result<session::Channel> {
        self.channel.accept()
    }

    async fn refuse(self, why: &str) {
        self.channel.refuse(CONNECT_FAILED, why);
    }
}

impl SshChannel for session::Channel {
    type Reader = session::ChannelReader;
    type Writer = session::ChannelWriter;

    fn split(self) -> (Self::Reader, Self::Writer) {
        session::Channel::split(self)
    }
}

impl SshChannelReader for session::ChannelReader {
    async fn next_pieces(&mut self, pieces: &mut Vec<Bytes>, max_bytes: usize) -> io::Result<bool> {
        session::ChannelReader::read_chunks(self, pieces, max_bytes).await
    }
}

impl SshChannelWriter for session::ChannelWriter {
    async fn closed(&self) {
        session::ChannelWriter::closed(self).await;
    }
}
