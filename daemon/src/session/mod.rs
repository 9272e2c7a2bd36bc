//! One SSH session: made, spoken over, ended. The only floor that names the SSH library.

mod auth;
mod client;
mod deadline;
mod dial;
mod host_key;
mod transport;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tunneld_ssh::client as ssh_client;

pub use self::auth::agent::socket as agent_socket;
use self::client::Client;
use crate::failure::Failure;
use crate::prompt::PromptSender;
use tunneld_config::addr::ListenAddr;
use tunneld_config::model::Route;
use tunneld_proto::status::Phase;

/// What a dial needs besides the route.
#[derive(Clone)]
pub struct DialContext {
    /// The tunnel's name, for the log.
    pub tunnel: String,
    /// Hears each phase as it begins.
    pub phases: mpsc::UnboundedSender<Phase>,
    /// Where a person is asked.
    pub asker: PromptSender,
    /// The session of `Via::Tunnel`, where that is the route.
    pub carrier: Option<Session>,
}

/// A session that stands, and what the far side will open over it.
pub struct Established {
    /// The session.
    pub session: Session,
    /// Connections to remote forwards; a full queue refuses the connection, never stalls the session.
    pub incoming: mpsc::Receiver<Incoming>,
}

/// Makes a session: reaches the host, exchanges keys, checks the host key, logs in.
///
/// Cancel-safe: dropping it ends all that it began, children included.
///
/// # Errors
/// What failed, with its verdict.
pub async fn dial(route: &Route, context: DialContext) -> Result<Established, Failure> {
    dial::dial(route, &context).await
}

/// A live session; clones are handles to the same one.
#[derive(Clone)]
pub struct Session(Arc<Client>);

/// What a session was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The host that was reached: what `host_command` said, where there is one.
    pub host: String,
    /// The server's identification.
    pub server: String,
    /// The key exchange method.
    pub kex: String,
    /// The cipher.
    pub cipher: String,
    /// The MAC; none where the cipher brings its own.
    pub mac: Option<String>,
    /// Type and SHA256 fingerprint of the host key.
    pub host_key: String,
    /// How the login went.
    pub auth: String,
    /// The local address of the TCP connection, where there is one.
    pub local_addr: Option<SocketAddr>,
}

/// A connection that the far side opened for one of our remote forwards.
pub struct Incoming {
    /// The forward, as it was asked for with [`Session::request_forward`].
    pub listen: ListenAddr,
    /// The port that the server bound for it, where 0 was asked for too; 0 for a Unix socket.
    pub port: u16,
    /// Who connected there, as the server tells it; never trusted.
    pub originator: String,
    /// The bytes. Dropping it unanswered refuses the connection.
    pub channel: PendingChannel,
}

/// A channel that the far side wants opened.
pub struct PendingChannel(ssh_client::PendingChannel);

impl PendingChannel {
    /// Takes it.
    ///
    /// # Errors
    /// `ConnectionAborted` where the session has ended.
    #[expect(
        clippy::unused_async,
        reason = "what takes it is not to count on the answer being at hand"
    )]
    pub async fn accept(self) -> io::Result<Channel> {
        self.0.accept().map(Channel)
    }

    /// Refuses it: SSH_OPEN_CONNECT_FAILED (RFC 4254 §5.1).
    #[expect(clippy::unused_async, reason = "as for accept")]
    pub async fn refuse(self, why: &str) {
        self.0.refuse(2, why);
    }
}

/// Why the far side did not open a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The server said no: RFC 4254 §5.1's reason code and its text, escaped.
    #[error("the server refused: {text}")]
    Refused {
        /// 1 prohibited, 2 connect failed, 3 unknown type, 4 resource shortage.
        code: u32,
        /// The server's text.
        text: String,
    },
    /// No answer within the deadline.
    #[error("the server did not answer within {0:?}")]
    Timeout(Duration),
    /// The session ended first.
    #[error("the session ended: {0}")]
    SessionLost(String),
}

impl Session {
    /// What it was made of.
    pub fn info(&self) -> &SessionInfo {
        self.0.info()
    }

    /// The last measured round trip.
    pub fn rtt(&self) -> Option<Duration> {
        self.0.rtt()
    }

    /// How often the server did what nothing allows.
    pub fn offences(&self) -> u64 {
        self.0.offences()
    }

    /// Opens a connection from the far end to `host:port` (RFC 4254 §7.2).
    ///
    /// # Errors
    /// The server's refusal, its silence, or the session's end.
    pub async fn open_direct_tcpip(
        &self,
        host: impl AsRef<[u8]>,
        port: u16,
        originator: Option<SocketAddr>,
    ) -> Result<Channel, OpenError> {
        let opened = self.0.open_direct_tcpip(host.as_ref(), port, originator);
        opened.await
    }

    /// Opens a connection to a Unix socket at the far end (OpenSSH PROTOCOL §2.4).
    ///
    /// # Errors
    /// The server's refusal, its silence, or the session's end.
    pub async fn open_direct_streamlocal(
        &self,
        path: impl AsRef<[u8]>,
    ) -> Result<Channel, OpenError> {
        self.0.open_direct_streamlocal(path.as_ref()).await
    }

    /// Asks the server to listen; the port really bound (0 for a Unix socket).
    ///
    /// # Errors
    /// The server's refusal, its silence, or the session's end.
    pub async fn request_forward(&self, listen: &ListenAddr) -> Result<u16, Failure> {
        self.0.request_forward(listen).await
    }

    /// Asks the server to listen no more.
    ///
    /// # Errors
    /// The server's refusal, its silence, or the session's end.
    pub async fn cancel_forward(&self, listen: &ListenAddr) -> Result<(), Failure> {
        self.0.cancel_forward(listen).await
    }

    /// Asks for a sign of life; the round trip.
    ///
    /// # Errors
    /// No sign within `deadline`, or the session's end.
    pub async fn ping(&self, deadline: Duration) -> Result<Duration, Failure> {
        self.0.ping(deadline).await
    }

    /// Waits until the session has ended, and tells why. Any number of callers.
    pub async fn closed(&self) -> Failure {
        self.0.closed().await
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Ends it in order (SSH_MSG_DISCONNECT); at once where the peer does not listen.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

/// One connection over the session.
///
/// Reading: `Ok(0)` (or `Ok(None)`) only after the far side's EOF. A CLOSE without EOF is
/// `ConnectionReset`, the session's end `ConnectionAborted`. Shutting down writes EOF and leaves reading open.
/// Dropping both halves sends CLOSE.
pub struct Channel(ssh_client::Channel);
/// The reading half.
pub struct ChannelReader(ssh_client::ChannelReader);
/// The writing half. A write waits for window, and wakes with an error when the session ends.
pub struct ChannelWriter(ssh_client::ChannelWriter);

impl Channel {
    /// Two halves that end each alone.
    pub fn split(self) -> (ChannelReader, ChannelWriter) {
        let (reader, writer) = self.0.split();
        (ChannelReader(reader), ChannelWriter(writer))
    }
}

impl ChannelReader {
    /// The next bytes, of whatever length they came in; `None` after EOF. What was given before counts as
    /// consumed when this is called again. Cancel-safe.
    ///
    /// # Errors
    /// `ConnectionReset` after a CLOSE without EOF, `ConnectionAborted` after the session's end.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.0.read_chunk().await
    }

    /// Waits for bytes as [`ChannelReader::next`] does, and appends all that are there, about `most` bytes at
    /// most, to `pieces`; `false` after EOF. Cancel-safe.
    ///
    /// # Errors
    /// As [`ChannelReader::next`].
    pub async fn next_pieces(
        &mut self,
        pieces: &mut impl Extend<Bytes>,
        most: usize,
    ) -> io::Result<bool> {
        self.0.read_chunks(pieces, most).await
    }
}

impl ChannelWriter {
    /// Waits until the far side takes no more: its CLOSE came, or the session ended. Cancel-safe.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
