//! The byte stream below a session: a TCP socket with its options, or any other stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// A stream that a session can run over; implemented for every type that qualifies.
pub trait AsyncStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> AsyncStream for T {}

/// The byte stream of one session.
pub enum Stream {
    /// A TCP connection: the session sets its socket options.
    Tcp(TcpStream),
    /// A channel of another session, the pipes of a child process, an in-memory duplex.
    Other(Box<dyn AsyncStream>),
}

impl Stream {
    /// Wraps a stream that is not a TCP connection.
    pub fn other(stream: impl AsyncStream + 'static) -> Self {
        Self::Other(Box::new(stream))
    }

    /// Sets the socket options of a TCP connection. Failures are ignored: every option only improves latency or
    /// detects a dead peer earlier.
    pub(super) fn set_socket_options(&self, dead_after: Option<Duration>) {
        if let Self::Tcp(tcp) = self {
            let socket = socket2::SockRef::from(tcp);
            // Without it, sequential connections over one session were measured to be 54 times slower: small packets
            // wait for ACKs.
            let _ = socket.set_tcp_nodelay(true);
            #[cfg(target_os = "linux")]
            {
                // Unsent bytes in the kernel go before every later small write: keep few there.
                let _ = socket.set_tcp_notsent_lowat(128 * 1024);
                // The kernel gives up on unacknowledged data as early as keepalive does; its default is about 15
                // minutes.
                let _ = socket.set_tcp_user_timeout(dead_after);
            }
            #[cfg(not(target_os = "linux"))]
            let _ = dead_after;
        }
    }

    /// Appends to `buffer`, `block` bytes at most when it has to grow. The buffer grows only when the socket is
    /// readable, so that a quiet connection holds no memory. `quickack_pending` is set while received bytes may wait
    /// for a delayed ACK.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        block: usize,
        quickack_pending: &mut bool,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => {
                let ready = tcp.poll_read_ready(cx)?;
                // Asked before the buffer grows: a read that finds nothing would leave an idle session with a block
                // allocated.
                if ready.is_pending() {
                    send_pending_ack(tcp, quickack_pending);
                    return Poll::Pending;
                }
                reserve_block(buffer, block);
                let free = buffer.capacity() - buffer.len();
                let read = poll_read_buf(Pin::new(&mut *tcp), cx, buffer);
                // A full read is followed by another one: acknowledging once after the last is cheaper.
                let full = matches!(read, Poll::Ready(Ok(count)) if count == free);
                if full {
                    *quickack_pending = true;
                } else {
                    *quickack_pending |= read.is_ready();
                    send_pending_ack(tcp, quickack_pending);
                }
                read
            }
            Self::Other(stream) => {
                reserve_block(buffer, block);
                poll_read_buf(Pin::new(&mut **stream), cx, buffer)
            }
        }
    }

    /// Writes a prefix of `bytes` and returns its length, never 0.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match self {
            Self::Tcp(tcp) => ready!(Pin::new(tcp).poll_write(cx, bytes)),
            Self::Other(stream) => ready!(Pin::new(stream).poll_write(cx, bytes)),
        };
        Poll::Ready(match written {
            // The caller would try again for ever.
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            other => other,
        })
    }

    /// Flushes a stream that buffers internally. A TCP socket does not.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

/// Acknowledges received bytes now. A server without TCP_NODELAY holds its next small packet back until its last one
/// is acknowledged. The kernel leaves quick-ACK mode by itself, so it is set after every complete read.
fn send_pending_ack(tcp: &TcpStream, quickack_pending: &mut bool) {
    if std::mem::take(quickack_pending) {
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(tcp).set_tcp_quickack(true);
        #[cfg(not(target_os = "linux"))]
        let _ = tcp;
    }
}

/// Makes room for a read. A new block is allocated only when less than a quarter is left, because the unprocessed rest
/// is copied into it.
fn reserve_block(buffer: &mut BytesMut, block: usize) {
    if buffer.capacity() - buffer.len() < block / 4 {
        buffer.reserve(block);
    }
}
