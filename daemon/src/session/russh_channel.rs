//! Channels over russh: its halves as streams that tell EOF, CLOSE and the session's end apart, whose writers wake
//! when either comes, and which close themselves when both halves are gone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::ReadBuf;
use tokio_util::sync::{CancellationToken, ReusableBoxFuture, WaitForCancellationFutureOwned};

use super::russh_client::Shared;

/// The most that one write takes: what fits one packet.
const CHUNK: usize = 32 * 1024;

/// What both halves hold.
struct Core {
    write: Option<ChannelWriteHalf<Msg>>,
    closed: CancellationToken,
    session: Arc<Shared>,
}

impl Drop for Core {
    fn drop(&mut self) {
        let Some(write) = self.write.take() else {
            return;
        };
        self.session.forget_channel(write.id());
        if self.closed.is_cancelled() || self.session.end.is_told() {
            return;
        }
        self.session.spawn(async move {
            // Fails only when the session is gone, and the channel with it.
            let _gone = write.close().await;
        });
    }
}

/// Makes the two halves of a channel.
pub(super) fn halves(
    channel: russh::Channel<Msg>,
    closed: CancellationToken,
    session: Arc<Shared>,
) -> (Reader, Writer) {
    let (read, write) = channel.split();
    let told = session.end.told();
    let core = Arc::new(Core {
        write: Some(write),
        closed,
        session,
    });
    let reader = Reader {
        next: ReusableBoxFuture::new(next_message(read)),
        rest: Bytes::new(),
        ended: None,
        told: Box::pin(told),
        _core: Arc::clone(&core),
    };
    let gone = Box::pin(gone(Arc::clone(&core)));
    let writer = Writer {
        core,
        gone,
        state: State::Idle,
        busy: ReusableBoxFuture::new(std::future::pending()),
    };
    (reader, writer)
}

async fn next_message(mut half: ChannelReadHalf) -> (ChannelReadHalf, Option<ChannelMsg>) {
    let message = half.wait().await;
    (half, message)
}

async fn gone(core: Arc<Core>) -> io::Error {
    tokio::select! {
        () = core.closed.cancelled() => io::Error::new(
            io::ErrorKind::BrokenPipe,
            "the far side closed the connection",
        ),
        _ = core.session.end.wait() => lost(),
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the SSH session ended")
}

#[derive(Clone, Copy)]
enum Ended {
    Eof,
    Closed,
    Lost,
}

impl Ended {
    fn told(self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Eof => Ok(None),
            Self::Closed => Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the far side cut the connection",
            )),
            Self::Lost => Err(lost()),
        }
    }
}

/// The reading half.
pub(super) struct Reader {
    next: ReusableBoxFuture<'static, (ChannelReadHalf, Option<ChannelMsg>)>,
    rest: Bytes,
    ended: Option<Ended>,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    _core: Arc<Core>,
}

impl Reader {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        if let Some(ended) = self.ended {
            return Poll::Ready(ended.told());
        }
        loop {
            let Poll::Ready((half, message)) = self.next.poll(cx) else {
                ready!(self.told.as_mut().poll(cx));
                self.ended = Some(Ended::Lost);
                return Poll::Ready(Err(lost()));
            };
            self.next.set(next_message(half));
            let ended = match message {
                Some(ChannelMsg::Data { data }) if !data.is_empty() => {
                    return Poll::Ready(Ok(Some(data)));
                }
                Some(ChannelMsg::Eof) => Ended::Eof,
                Some(ChannelMsg::Close) => Ended::Closed,
                Some(_) => continue,
                None => Ended::Lost,
            };
            self.ended = Some(ended);
            return Poll::Ready(ended.told());
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut bytes) = ready!(self.poll_next(cx))? {
            let take = bytes.len().min(buf.remaining());
            buf.put_slice(bytes.get(..take).unwrap_or_default());
            bytes.advance(take);
            self.rest = bytes;
        }
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// So many bytes are on their way.
    Writing(usize),
    /// EOF is.
    Ending,
    Ended,
}

/// The writing half.
pub(super) struct Writer {
    core: Arc<Core>,
    gone: Pin<Box<dyn Future<Output = io::Error> + Send + Sync>>,
    state: State,
    busy: ReusableBoxFuture<'static, Result<(), russh::Error>>,
}

async fn send(core: Arc<Core>, bytes: Bytes) -> Result<(), russh::Error> {
    match &core.write {
        Some(write) => write.data_bytes(bytes).await,
        None => Err(russh::Error::SendError),
    }
}

async fn send_eof(core: Arc<Core>) -> Result<(), russh::Error> {
    match &core.write {
        Some(write) => write.eof().await,
        None => Err(russh::Error::SendError),
    }
}

impl Writer {
    /// Waits until the far side takes no more.
    pub(super) async fn closed(&self) {
        let _why = gone(Arc::clone(&self.core)).await;
    }

    fn poll_busy(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.core.closed.is_cancelled() || self.core.session.end.is_told() {
            let why = ready!(self.gone.as_mut().poll(cx));
            self.gone = Box::pin(gone(Arc::clone(&self.core)));
            return Poll::Ready(Err(why));
        }
        match self.busy.poll(cx) {
            Poll::Ready(done) => Poll::Ready(done.map_err(|_| lost())),
            Poll::Pending => {
                let why = ready!(self.gone.as_mut().poll(cx));
                self.gone = Box::pin(gone(Arc::clone(&self.core)));
                Poll::Ready(Err(why))
            }
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match self.state {
            State::Idle => {
                let taken = buf.len().min(CHUNK);
                let bytes = Bytes::copy_from_slice(buf.get(..taken).unwrap_or_default());
                self.busy.set(send(Arc::clone(&self.core), bytes));
                self.state = State::Writing(taken);
            }
            State::Writing(_) => {}
            State::Ending | State::Ended => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        let done = ready!(self.poll_busy(cx));
        let State::Writing(taken) = std::mem::replace(&mut self.state, State::Idle) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        Poll::Ready(done.map(|()| taken.min(buf.len())))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Writing(_) = self.state {
            let done = ready!(self.poll_busy(cx));
            self.state = State::Idle;
            return Poll::Ready(done);
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        if self.state == State::Idle {
            self.busy.set(send_eof(Arc::clone(&self.core)));
            self.state = State::Ending;
        }
        if self.state == State::Ending {
            let done = ready!(self.poll_busy(cx));
            self.state = State::Ended;
            return Poll::Ready(match done {
                // A far side that has closed needs no EOF any more.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                done => done,
            });
        }
        Poll::Ready(Ok(()))
    }
}

/// Both halves as one.
pub(super) struct Duplex(pub(super) Reader, pub(super) Writer);
