//! The connection below: a TCP socket with its options, or any other stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// What a session can run over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What a session runs over.
pub enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A channel of another session, a child's pipes, a test's duplex.
    Other(Box<dyn Io>),
}

impl Stream {
    /// Any stream that is no TCP connection.
    pub fn other(stream: impl Io + 'static) -> Self {
        Self::Other(Box::new(stream))
    }

    /// Sets what a session wants of its socket. What the system does not have is done without.
    pub(crate) fn prepare(&self, dead_after: Option<Duration>) {
        if let Self::Tcp(tcp) = self {
            let socket = socket2::SockRef::from(tcp);
            let _ = socket.set_tcp_nodelay(true);
            #[cfg(target_os = "linux")]
            {
                // What the kernel holds unsent is ahead of every later small write.
                let _ = socket.set_tcp_notsent_lowat(128 * 1024);
                let _ = socket.set_tcp_user_timeout(dead_after);
            }
            #[cfg(not(target_os = "linux"))]
            let _ = dead_after;
        }
    }

    /// Reads into the end of `buffer`. Room is made only when there may be something to read, so that
    /// a connection that is quiet holds no memory. `owed`: bytes came that are not acknowledged at once yet.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        room: usize,
        owed: &mut bool,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => {
                let ready = tcp.poll_read_ready(cx)?;
                if ready.is_pending() {
                    acknowledge_at_once(tcp, owed);
                    return Poll::Pending;
                }
                make_room(buffer, room);
                let free = buffer.capacity() - buffer.len();
                let read = poll_read_buf(Pin::new(&mut *tcp), cx, buffer);
                // After a full read comes another one.
                let full = matches!(read, Poll::Ready(Ok(count)) if count == free);
                if full {
                    *owed = true;
                } else {
                    *owed |= read.is_ready();
                    acknowledge_at_once(tcp, owed);
                }
                read
            }
            Self::Other(stream) => {
                make_room(buffer, room);
                poll_read_buf(Pin::new(&mut **stream), cx, buffer)
            }
        }
    }

    /// Writes the beginning of `bytes`.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = match self {
            Self::Tcp(tcp) => ready!(Pin::new(tcp).poll_write(cx, bytes)),
            Self::Other(stream) => ready!(Pin::new(stream).poll_write(cx, bytes)),
        };
        Poll::Ready(match wrote {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            other => other,
        })
    }

    /// Hands on what a buffered stream holds back.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

/// A server that has not set TCP_NODELAY holds its next small packet back until the last is acknowledged; the
/// kernel leaves this mode by itself, so it is set again each time that everything was read.
fn acknowledge_at_once(tcp: &TcpStream, owed: &mut bool) {
    if std::mem::take(owed) {
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(tcp).set_tcp_quickack(true);
        #[cfg(not(target_os = "linux"))]
        let _ = tcp;
    }
}

/// Starts a new block only when little is left of the last: what stands over is copied then.
fn make_room(buffer: &mut BytesMut, room: usize) {
    if buffer.capacity() - buffer.len() < room / 4 {
        buffer.reserve(room);
    }
}
