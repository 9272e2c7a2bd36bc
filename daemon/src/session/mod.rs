//! One SSH session: made, spoken over, ended. The only floor that names the SSH library.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::addr::Listen;
use crate::config::model::Route;
use crate::failure::Failure;
use crate::prompt::Asker;
use tunneld_proto::status::Phase;

/// What a dial needs besides the route.
#[derive(Clone)]
pub struct DialContext {
    /// The tunnel's name, for the log.
    pub tunnel: String,
    /// Hears each phase as it begins.
    pub phases: mpsc::UnboundedSender<Phase>,
    /// Where a person is asked.
    pub asker: Asker,
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
pub async fn dial(_route: &Route, _context: DialContext) -> Result<Established, Failure> {
    todo!()
}

/// A live session; clones are handles to the same one.
#[derive(Clone)]
pub struct Session;

/// What a session was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
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
    pub listen: Listen,
    /// The port that the server bound for it, where 0 was asked for too; 0 for a Unix socket.
    pub port: u16,
    /// Who connected there, as the server tells it; never trusted.
    pub originator: String,
    /// The bytes. Dropping it unanswered refuses the connection.
    pub channel: PendingChannel,
}

/// A channel that the far side wants opened.
pub struct PendingChannel;

impl PendingChannel {
    /// Takes it.
    pub async fn accept(self) -> io::Result<Channel> {
        todo!()
    }
    /// Refuses it: SSH_OPEN_CONNECT_FAILED (RFC 4254 §5.1).
    pub async fn refuse(self, _why: &str) {
        todo!()
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
        todo!()
    }
    /// The last measured round trip.
    pub fn rtt(&self) -> Option<Duration> {
        todo!()
    }
    /// Opens a connection from the far end to `host:port` (RFC 4254 §7.2).
    pub async fn open_direct_tcpip(
        &self,
        _host: &str,
        _port: u16,
        _originator: Option<SocketAddr>,
    ) -> Result<Channel, OpenError> {
        todo!()
    }
    /// Opens a connection to a Unix socket at the far end (OpenSSH PROTOCOL §2.4).
    pub async fn open_direct_streamlocal(&self, _path: &str) -> Result<Channel, OpenError> {
        todo!()
    }
    /// Asks the server to listen; the port really bound (0 for a Unix socket).
    pub async fn request_forward(&self, _listen: &Listen) -> Result<u16, Failure> {
        todo!()
    }
    /// Asks the server to listen no more.
    pub async fn cancel_forward(&self, _listen: &Listen) -> Result<(), Failure> {
        todo!()
    }
    /// Asks for a sign of life; the round trip.
    pub async fn ping(&self, _deadline: Duration) -> Result<Duration, Failure> {
        todo!()
    }
    /// Waits until the session has ended, and tells why. Any number of callers.
    pub async fn closed(&self) -> Failure {
        todo!()
    }
    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        todo!()
    }
    /// Ends it in order (SSH_MSG_DISCONNECT); at once where the peer does not listen.
    pub async fn close(&self) {
        todo!()
    }
}

/// One connection over the session.
///
/// Reading: `Ok(0)` (or `Ok(None)`) only after the far side's EOF. A CLOSE without EOF is
/// `ConnectionReset`, the session's end `ConnectionAborted`. Shutting down writes EOF and leaves reading open.
/// Dropping both halves sends CLOSE.
pub struct Channel;
/// The reading half.
pub struct ChannelReader;
/// The writing half. A write waits for window, and wakes with an error when the session ends.
pub struct ChannelWriter;

impl Channel {
    /// Two halves that end each alone.
    pub fn split(self) -> (ChannelReader, ChannelWriter) {
        todo!()
    }
}

impl ChannelReader {
    /// The next bytes, of whatever length they came in; `None` after EOF.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        todo!()
    }
}

impl ChannelWriter {
    /// Waits until the far side takes no more: its CLOSE came, or the session ended. Cancel-safe.
    pub async fn closed(&self) {
        todo!()
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        todo!()
    }
}
impl AsyncWrite for Channel {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        todo!()
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}
impl AsyncRead for ChannelReader {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        todo!()
    }
}
impl AsyncWrite for ChannelWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        todo!()
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}
