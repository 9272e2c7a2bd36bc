//! The client's socket as hyper uses it. The socket stays shared, so that a request that waits for a session can notice
//! that its client is gone, and so that it comes back whole when the connection becomes a byte stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::forward::local_socket::LocalSocket;

/// A client's connection, with the bytes that were read before its protocol was known.
#[derive(Debug)]
pub(super) struct ClientStream {
    pub(super) socket: Arc<LocalSocket>,
    /// Bytes that are still to be read, before those of the socket.
    pub(super) first: Vec<u8>,
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return this.socket.poll_read_shared(cx, buffer);
        }
        let count = this.first.len().min(buffer.remaining());
        let rest = this.first.split_off(count);
        buffer.put_slice(&this.first);
        this.first = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket
            .poll_write_shared(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write_shared(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown_write())
    }
}
