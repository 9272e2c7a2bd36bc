//! A connection on this side: TCP or a Unix socket.
//! Dropped, it is reset; only [`LocalSocket::close`] ends it in order, so that no lost session looks like an end of data.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// As many pieces go into one system call.
const SLICES: usize = 16;

/// One connection.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    stream: Stream,
    in_order: bool,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

macro_rules! each {
    ($socket:expr, $stream:ident => $body:expr) => {
        match $socket {
            Stream::Tcp($stream) => $body,
            #[cfg(unix)]
            Stream::Unix($stream) => $body,
        }
    };
}

impl From<TcpStream> for LocalSocket {
    fn from(stream: TcpStream) -> Self {
        // Its failure costs latency alone, or the connection is gone already.
        let _ = stream.set_nodelay(true);
        Self {
            stream: Stream::Tcp(stream),
            in_order: false,
        }
    }
}

#[cfg(unix)]
impl From<UnixStream> for LocalSocket {
    fn from(stream: UnixStream) -> Self {
        Self {
            stream: Stream::Unix(stream),
            in_order: false,
        }
    }
}

impl LocalSocket {
    /// Who is at its other end.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.peer_addr().ok(),
            #[cfg(unix)]
            Stream::Unix(_) => None,
        }
    }

    /// Waits until something may be read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        each!(&self.stream, stream => stream.readable().await)
    }

    /// Reads what is there.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(&self.stream, stream => stream.try_read(buffer))
    }

    /// Writes all of it.
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

    /// Writes all of them, and lets go of each as soon as it is written.
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
        pieces.shrink_to(SLICES);
        Ok(())
    }

    fn try_write_pieces(&self, pieces: &[Bytes]) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
        }
        let slices = slices.get(..pieces.len()).unwrap_or(&slices);
        each!(&self.stream, stream => stream.try_write_vectored(slices))
    }

    /// Says that nothing more is written; reading goes on.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.sock().shutdown(std::net::Shutdown::Write)
    }

    /// Waits until the other end has reset it.
    pub(crate) async fn failed(&self) {
        // An error of the wait itself says no less than the readiness it waits for.
        let _ = each!(&self.stream, stream => stream.ready(Interest::ERROR).await);
    }

    /// Waits until the other end has gone without having said anything: reset, or ended with nothing to read.
    /// Takes no byte. One that sent something and then ended its half still waits for an answer, and is not gone.
    pub(crate) async fn gone(&self) {
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
                Ok(_) => return self.failed().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Ends it in order: what was written arrives.
    pub(crate) fn close(mut self) {
        self.in_order = true;
    }

    /// The system's socket.
    pub(crate) fn sock(&self) -> SockRef<'_> {
        each!(&self.stream, stream => SockRef::from(stream))
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        if !self.in_order {
            // Close with a linger of zero is how a reset is sent; Unix sockets know no such thing.
            let _ = self.sock().set_linger(Some(Duration::ZERO));
        }
    }
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
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        let (socket, mut far) = (LocalSocket::from(near.unwrap()), far.unwrap().0);
        // More than the kernel holds, in pieces of every size.
        let all: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8).collect();
        let bytes = Bytes::from(all.clone());
        let (mut pieces, mut start, mut size) = (Vec::new(), 0, 1);
        while start < bytes.len() {
            let end = (start + size).min(bytes.len());
            pieces.push(bytes.slice(start..end));
            (start, size) = (end, size * 7 % 100_003);
        }
        assert!(pieces.len() > 10 * SLICES);
        let write = async {
            socket.write_pieces(&mut pieces).await.unwrap();
            socket.finish().unwrap();
        };
        let mut read = Vec::new();
        let (_, end) = tokio::join!(write, far.read_to_end(&mut read));
        end.unwrap();
        assert!(read == all);
        assert!(pieces.is_empty());
    }
}
