//! What the bytes need of a session, so that they can be tried without SSH.
//! `session::Session` is the one that runs; the tests have one in memory.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::failure::Failure;
use crate::session::{self, OpenError, Session};
use tunneld_config::addr::{Endpoint, ListenAddr};

/// Where a connection leads at the far end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A port on a host; the name as bytes, for a client of SOCKS may send any.
    Tcp {
        /// The name or address.
        host: Vec<u8>,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl From<&Endpoint> for Target {
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

/// A live session, as far as bytes go. Clones are handles to the same one.
pub trait SshSession: Clone + Send + Sync + 'static {
    /// A connection over it.
    type Channel: SshChannel;
    /// A connection that the far side opened.
    type Incoming: IncomingChannel<Channel = Self::Channel>;

    /// Opens a connection from the far end to the target.
    fn open(
        &self,
        target: &Target,
        originator: Option<SocketAddr>,
    ) -> impl Future<Output = Result<Self::Channel, OpenError>> + Send;
    /// Asks the far side to listen; the port really bound.
    fn request_forward(
        &self,
        listen: &ListenAddr,
    ) -> impl Future<Output = Result<u16, Failure>> + Send;
    /// Asks the far side to listen no more.
    fn cancel_forward(
        &self,
        listen: &ListenAddr,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Waits until it has ended.
    fn closed(&self) -> impl Future<Output = ()> + Send;
    /// Whether it has ended.
    fn is_closed(&self) -> bool;
}

/// A connection that the far side opened, not yet taken. Dropping it refuses it.
pub trait IncomingChannel: Send + 'static {
    /// What it becomes.
    type Channel;
    /// The forward, as it was asked for.
    fn listen(&self) -> &ListenAddr;
    /// The port that the far side bound for it.
    fn port(&self) -> u16;
    /// Takes it.
    fn accept(self) -> impl Future<Output = io::Result<Self::Channel>> + Send;
    /// Refuses it.
    fn refuse(self, why: &str) -> impl Future<Output = ()> + Send;
}

/// The far end of a connection; [`session::Channel`] says how its ends are told apart.
pub trait SshChannel: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Its reading half.
    type Reader: SshChannelReader;
    /// Its writing half.
    type Writer: SshChannelWriter;
    /// Both, each ending alone.
    fn split(self) -> (Self::Reader, Self::Writer);
}

/// Reads from the far end.
pub trait SshChannelReader: Send {
    /// Waits for bytes, and appends all that are there, about `most` at most; `false` after the far side's EOF.
    fn next(
        &mut self,
        pieces: &mut Vec<Bytes>,
        most: usize,
    ) -> impl Future<Output = io::Result<bool>> + Send;
}

/// Writes to the far end.
pub trait SshChannelWriter: AsyncWrite + Unpin + Send {
    /// Waits until the far side takes no more.
    fn closed(&self) -> impl Future<Output = ()> + Send;
}

impl SshSession for Session {
    type Channel = session::Channel;
    type Incoming = session::Incoming;

    async fn open(
        &self,
        target: &Target,
        originator: Option<SocketAddr>,
    ) -> Result<session::Channel, OpenError> {
        match target {
            Target::Tcp { host, port } => self.open_direct_tcpip(host, *port, originator).await,
            Target::Unix(path) => {
                let path = path.as_os_str().as_encoded_bytes();
                self.open_direct_streamlocal(path).await
            }
        }
    }

    async fn request_forward(&self, listen: &ListenAddr) -> Result<u16, Failure> {
        Session::request_forward(self, listen).await
    }

    async fn cancel_forward(&self, listen: &ListenAddr) -> Result<(), Failure> {
        Session::cancel_forward(self, listen).await
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
        self.channel.accept().await
    }

    async fn refuse(self, why: &str) {
        self.channel.refuse(why).await;
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
    async fn next(&mut self, pieces: &mut Vec<Bytes>, most: usize) -> io::Result<bool> {
        self.next_pieces(pieces, most).await
    }
}

impl SshChannelWriter for session::ChannelWriter {
    async fn closed(&self) {
        session::ChannelWriter::closed(self).await;
    }
}

/// A near end that is itself a stream, whatever its kind: what a handshake is spoken over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
