//! The byte stream under an SSH session, whatever carries it: skips what comes before the identification, knows how
//! long the peer has been silent, and can be cut off by anyone at any time.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::end::End;
use super::preamble::{Fed, Preamble};
use crate::text;

/// What carries a session.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// What is known about a wire by those who do not hold it.
#[derive(Debug)]
pub(super) struct Gauge {
    born: Instant,
    /// Milliseconds since `born`, plus one, since when a read waits; 0 for no read waiting.
    reading: AtomicU64,
    /// The same for writes.
    writing: AtomicU64,
    /// The peer's identification.
    identification: OnceLock<String>,
    /// What came before it. Never held across an await.
    said: Mutex<String>,
}

impl Gauge {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            reading: AtomicU64::new(0),
            writing: AtomicU64::new(0),
            identification: OnceLock::new(),
            said: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// How long the peer has given no sign of life: while a write waits for it, or else a read does.
    /// Time in which the library asks for nothing is nobody's silence.
    pub(super) fn silence(&self) -> Duration {
        let since = match self.writing.load(Ordering::Relaxed) {
            0 => self.reading.load(Ordering::Relaxed),
            writing => writing,
        };
        match since {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.now().saturating_sub(since)),
        }
    }

    /// The peer's identification, escaped, once it has come.
    pub(super) fn identification(&self) -> Option<&str> {
        self.identification.get().map(String::as_str)
    }

    /// What the peer said before it, escaped.
    pub(super) fn said(&self) -> String {
        self.said
            .lock()
            .map(|said| said.clone())
            .unwrap_or_default()
    }

    fn begin(&self, clock: &AtomicU64) {
        let _kept = clock.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    fn restart(&self, clock: &AtomicU64) {
        if clock.load(Ordering::Relaxed) != 0 {
            clock.store(self.now(), Ordering::Relaxed);
        }
    }
}

/// The stream that the SSH library is given.
pub(super) struct Wire {
    carrier: Box<dyn Carrier>,
    gauge: Arc<Gauge>,
    cut_read: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_write: Pin<Box<WaitForCancellationFutureOwned>>,
    preamble: Option<Preamble>,
    /// Read already, not yet handed on.
    ahead: Bytes,
}

impl Wire {
    /// A wire over `carrier` that `end` can cut.
    pub(super) fn new(carrier: Box<dyn Carrier>, end: &End) -> (Self, Arc<Gauge>) {
        let gauge = Arc::new(Gauge::new());
        let wire = Self {
            carrier,
            gauge: Arc::clone(&gauge),
            cut_read: Box::pin(end.cut_off()),
            cut_write: Box::pin(end.cut_off()),
            preamble: Some(Preamble::default()),
            ahead: Bytes::new(),
        };
        (wire, gauge)
    }

    fn poll_preamble(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(preamble) = &mut self.preamble {
            let mut space = [0; 2048];
            let mut buf = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.carrier).poll_read(cx, &mut buf))?;
            let got = buf.filled();
            let fed = preamble.feed(got);
            if let Ok(mut said) = self.gauge.said.lock() {
                *said = preamble.said();
            }
            match fed {
                Fed::More if got.is_empty() => return Poll::Ready(Ok(())),
                Fed::More => {}
                Fed::Nonsense(what) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("the peer is no SSH server: it sent {what}"),
                    )));
                }
                Fed::Identified(line, taken) => {
                    let _once = self.gauge.identification.set(text::escape_bytes(&line));
                    let rest = got.get(taken..).unwrap_or_default();
                    self.ahead = [line.as_slice(), b"\r\n", rest].concat().into();
                    self.preamble = None;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read_carrier(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_preamble(cx))?;
        if self.ahead.is_empty() {
            return match self.preamble {
                Some(_) => Poll::Ready(Ok(())),
                None => Pin::new(&mut self.carrier).poll_read(cx, buf),
            };
        }
        let take = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..take).unwrap_or_default());
        self.ahead.advance(take);
        Poll::Ready(Ok(()))
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the session was cut")
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut_read.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        let polled = self.poll_read_carrier(cx, buf);
        let gauge = &self.gauge;
        match &polled {
            Poll::Pending => gauge.begin(&gauge.reading),
            Poll::Ready(_) => gauge.reading.store(0, Ordering::Relaxed),
        }
        polled
    }
}

impl Wire {
    fn note_write<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let gauge = &self.gauge;
        match &polled {
            Poll::Pending => gauge.begin(&gauge.writing),
            Poll::Ready(_) => {
                // While a write waited nobody read: that time was not the peer's silence.
                if gauge.writing.swap(0, Ordering::Relaxed) != 0 {
                    gauge.restart(&gauge.reading);
                }
            }
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.cut_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        let polled = Pin::new(&mut self.carrier).poll_write(cx, buf);
        self.note_write(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        let polled = Pin::new(&mut self.carrier).poll_flush(cx);
        self.note_write(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        Pin::new(&mut self.carrier).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, FailureKind};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn knows_silence_and_can_be_cut() {
        let end = End::default();
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (mut wire, gauge) = Wire::new(Box::new(ours), &end);
        theirs.write_all(b"hello\nSSH-2.0-x\nab").await.unwrap();
        let mut got = [0; 13];
        wire.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"SSH-2.0-x\r\nab");
        assert_eq!(gauge.identification(), Some("SSH-2.0-x"));
        assert_eq!(gauge.said(), "hello");

        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(gauge.silence(), Duration::ZERO, "nobody reads");
        let reading = async {
            let mut one = [0];
            wire.read_exact(&mut one).await
        };
        let cutting = async {
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_secs(7)).await;
            assert_eq!(gauge.silence().as_secs(), 7);
            end.cut(Failure::new(FailureKind::DeadPeer, "silent"));
        };
        let (read, ()) = tokio::join!(reading, cutting);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(wire.write_all(b"x").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_without_progress_is_silence() {
        let end = End::default();
        let (ours, _theirs) = tokio::io::duplex(4);
        let (mut wire, gauge) = Wire::new(Box::new(ours), &end);
        let writing = tokio::time::timeout(Duration::from_secs(9), wire.write_all(b"too long"));
        assert!(writing.await.is_err());
        assert_eq!(gauge.silence().as_secs(), 9);
    }
}
