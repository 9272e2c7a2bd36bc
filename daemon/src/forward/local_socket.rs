//! A local connection, over TCP or a Unix socket. Dropping it resets it; only [`LocalSocket::close`] ends it in order.
//! This way every early return, panic and cancellation is a reset, and a lost session never looks like the end of the
//! data.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// The `listen(2)` backlog: connections that the kernel queues before `accept`; equal to the number that a tunnel
/// serves at a time. The kernel may lower it (Linux: `net.core.somaxconn`).
pub(super) const LISTEN_BACKLOG: i32 = 1024;

/// Pieces that are written with one system call.
const MAX_IO_SLICES: usize = 16;

/// A connected socket on this machine.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    stream: LocalStream,
    /// Whether the drop closes the socket in order instead of resetting it.
    close_in_order: bool,
}

#[derive(Debug)]
enum LocalStream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Evaluates an expression for the stream of either kind.
macro_rules! each {
    ($socket:expr, $stream:ident => $body:expr) => {
        match $socket {
            LocalStream::Tcp($stream) => $body,
            #[cfg(unix)]
            LocalStream::Unix($stream) => $body,
        }
    };
}

impl From<TcpStream> for LocalSocket {
    fn from(stream: TcpStream) -> Self {
        // Nagle's algorithm would delay small writes, such as key strokes. A failure costs only latency, or means that the
        // connection is gone.
        let _ = stream.set_nodelay(true);
        Self {
            stream: LocalStream::Tcp(stream),
            close_in_order: false,
        }
    }
}

#[cfg(unix)]
impl From<UnixStream> for LocalSocket {
    fn from(stream: UnixStream) -> Self {
        Self {
            stream: LocalStream::Unix(stream),
            close_in_order: false,
        }
    }
}

impl LocalSocket {
    /// Returns the address of the other end; `None` for a Unix socket or if the connection is gone.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match &self.stream {
            LocalStream::Tcp(stream) => stream.peer_addr().ok(),
            #[cfg(unix)]
            LocalStream::Unix(_) => None,
        }
    }

    /// Returns the TCP port of this end; `None` for a Unix socket or if the connection is gone.
    pub(crate) fn local_port(&self) -> Option<u16> {
        match &self.stream {
            LocalStream::Tcp(stream) => stream.local_addr().ok().map(|local| local.port()),
            #[cfg(unix)]
            LocalStream::Unix(_) => None,
        }
    }

    /// Waits until data, EOF or an error can be read. Cancel-safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        each!(&self.stream, stream => stream.readable().await)
    }

    /// Reads what has arrived, without waiting; 0 at EOF.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has arrived; otherwise the connection is broken.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(&self.stream, stream => stream.try_read(buffer))
    }

    /// Writes all of `bytes`. Takes `&self`, unlike tokio's, so that both directions can use the socket without a split.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match each!(&self.stream, stream => stream.try_write(bytes)) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    each!(&self.stream, stream => stream.writable().await)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all pieces, with few system calls. Each piece is released as soon as it is written, because its memory may
    /// be part of a larger buffer. `pieces` is empty afterwards.
    pub(crate) async fn write_pieces(&self, pieces: &mut Vec<Bytes>) -> io::Result<()> {
        let mut done = 0;
        while done < pieces.len() {
            match self.try_write_pieces(pieces.get(done..).unwrap_or_default()) {
                Ok(mut written) => {
                    for piece in pieces.iter_mut().skip(done) {
                        let now = written.min(piece.len());
                        piece.advance(now);
                        written -= now;
                        if !piece.is_empty() {
                            break;
                        }
                        *piece = Bytes::new();
                        done += 1;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    each!(&self.stream, stream => stream.writable().await)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        pieces.clear();
        // One burst must not leave its capacity with an idle connection.
        pieces.shrink_to(MAX_IO_SLICES);
        Ok(())
    }

    fn try_write_pieces(&self, pieces: &[Bytes]) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); MAX_IO_SLICES];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
        }
        let slices = slices.get(..pieces.len()).unwrap_or(&slices);
        each!(&self.stream, stream => stream.try_write_vectored(slices))
    }

    /// Reads what has arrived into `buffer`, like [`AsyncRead::poll_read`] but through a shared reference. Only one task
    /// may poll at a time.
    pub(crate) fn poll_read_shared(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(each!(&self.stream, stream => stream.poll_read_ready(cx)))?;
            match self.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes from `slices`, like [`AsyncWrite::poll_write_vectored`] but through a shared reference. Only one task may
    /// poll at a time.
    pub(crate) fn poll_write_shared(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(each!(&self.stream, stream => stream.poll_write_ready(cx)))?;
            match each!(&self.stream, stream => stream.try_write_vectored(slices)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Returns the socket, whose drop closes it in order from now on: what is written is complete.
    pub(crate) fn closing_in_order(mut self) -> Self {
        self.close_in_order = true;
        self
    }

    /// Sends EOF. Reading remains possible.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        self.sock().shutdown(std::net::Shutdown::Write)
    }

    /// Waits until the other end has reset the connection. Cancel-safe.
    pub(crate) async fn wait_for_reset(&self) {
        // An error of the wait means that the socket is unusable too.
        let _ = each!(&self.stream, stream => stream.ready(Interest::ERROR).await);
    }

    /// Waits until the client has given up: it reset the connection, or sent EOF without any data. Reads nothing.
    /// Cancel-safe.
    ///
    /// A client that sent data and then EOF (as `nc` does at the end of its input) may still wait for an answer. It has
    /// not given up, and only a reset counts from then on.
    pub(crate) async fn wait_until_abandoned(&self) {
        loop {
            if self.readable().await.is_err() {
                return;
            }
            let mut byte = [std::mem::MaybeUninit::uninit()];
            let peeked = each!(&self.stream, stream => {
                stream.try_io(Interest::READABLE, || SockRef::from(stream).peek(&mut byte))
            });
            match peeked {
                Ok(0) => return,
                Ok(_) => return self.wait_for_reset().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Closes the connection in order: data that was written is delivered, then EOF.
    pub(crate) fn close(mut self) {
        self.close_in_order = true;
    }

    /// Returns the underlying socket, for its options.
    pub(crate) fn sock(&self) -> SockRef<'_> {
        each!(&self.stream, stream => SockRef::from(stream))
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // Closing with a linger time of zero sends RST. Unix sockets have no reset; for them this has no effect. An
        // accepted socket may have the option from its listener already, see `reset_unless_closed`.
        let linger = (!self.close_in_order).then_some(Duration::ZERO);
        let _ = self.sock().set_linger(linger);
    }
}

/// Makes a listener's sockets reset their connection if they are dropped before they become a [`LocalSocket`]: an accepted
/// socket inherits the option. A connection that the runtime cannot register (no memory for epoll) would otherwise end
/// in order, as if its data were complete.
pub(super) fn reset_unless_closed(listener: &SockRef<'_>) {
    // A failure leaves the usual close.
    let _ = listener.set_linger(Some(Duration::ZERO));
}

impl AsyncRead for LocalSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(&mut self.stream, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for LocalSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.stream, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.stream, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.stream, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn pieces_arrive_whole_and_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (socket, mut peer) = (LocalSocket::from(client.unwrap()), accepted.unwrap().0);
        // More than the kernel buffers, in pieces of many sizes.
        let all: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8).collect();
        let bytes = Bytes::from(all.clone());
        let (mut pieces, mut start, mut size) = (Vec::new(), 0, 1);
        while start < bytes.len() {
            let end = (start + size).min(bytes.len());
            pieces.push(bytes.slice(start..end));
            (start, size) = (end, size * 7 % 100_003);
        }
        assert!(pieces.len() > 10 * MAX_IO_SLICES);
        let write = async {
            socket.write_pieces(&mut pieces).await.unwrap();
            socket.shutdown_write().unwrap();
        };
        let mut read = Vec::new();
        let (_, end) = tokio::join!(write, peer.read_to_end(&mut read));
        end.unwrap();
        assert!(read == all);
        assert!(pieces.is_empty());
    }
}
