//! An SSH session in memory: the test plays the server. Channels have a window of four messages in each direction.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, PollSender, WaitForCancellationFutureOwned};

use crate::failure::{Failure, FailureKind};
use crate::forward::ssh_session::{
    ChannelTarget, IncomingChannel, SshChannel, SshChannelReader, SshChannelWriter, SshSession,
};
use crate::session::OpenError;
use tunneld_config::addr::ListenAddr;

/// Messages that may be queued in one direction of a channel.
const WINDOW: usize = 4;

/// The client's end of a session, for the code under test.
#[derive(Clone)]
pub(super) struct FakeSession {
    lost: CancellationToken,
    open_requests: mpsc::UnboundedSender<OpenRequest>,
    global_requests: mpsc::UnboundedSender<GlobalRequest>,
}

/// The server's end of a session, for the test.
pub(super) struct Server {
    pub(super) lost: CancellationToken,
    pub(super) open_requests: mpsc::UnboundedReceiver<OpenRequest>,
    pub(super) global_requests: mpsc::UnboundedReceiver<GlobalRequest>,
    pub(super) incoming: mpsc::Sender<FakeIncoming>,
}

/// A channel that the code under test wants to open.
pub(super) struct OpenRequest {
    pub(super) target: ChannelTarget,
    pub(super) originator: Option<SocketAddr>,
    lost: CancellationToken,
    answer: oneshot::Sender<Result<FakeChannel, OpenError>>,
}

/// A request to listen, or to stop listening.
pub(super) enum GlobalRequest {
    Listen(ListenAddr, oneshot::Sender<Option<u16>>),
    Cancel(ListenAddr),
}

/// Returns a new session, its queue of incoming channels, and its server.
pub(super) fn new_session() -> (FakeSession, mpsc::Receiver<FakeIncoming>, Server) {
    let lost = CancellationToken::new();
    let (open_requests, open_requests_rx) = mpsc::unbounded_channel();
    let (global_requests, global_requests_rx) = mpsc::unbounded_channel();
    let (incoming, incoming_rx) = mpsc::channel(16);
    let session = FakeSession {
        lost: lost.clone(),
        open_requests,
        global_requests,
    };
    let server = Server {
        lost,
        open_requests: open_requests_rx,
        global_requests: global_requests_rx,
        incoming,
    };
    (session, incoming_rx, server)
}

impl OpenRequest {
    /// Opens the channel.
    pub(super) fn accept(self) -> Peer {
        let (channel, peer) = channel(self.lost);
        assert!(
            self.answer.send(Ok(channel)).is_ok(),
            "the client waits for the answer"
        );
        peer
    }

    /// Refuses the channel with a reason code of RFC 4254 §5.1.
    pub(super) fn refuse(self, code: u32, text: &str) {
        let text = text.to_owned();
        let _ = self.answer.send(Err(OpenError::Refused { code, text }));
    }
}

impl SshSession for FakeSession {
    type Channel = FakeChannel;
    type Incoming = FakeIncoming;

    async fn open(
        &self,
        target: &ChannelTarget,
        originator: Option<SocketAddr>,
    ) -> Result<FakeChannel, OpenError> {
        let (answer, answered) = oneshot::channel();
        let open = OpenRequest {
            target: target.clone(),
            originator,
            lost: self.lost.clone(),
            answer,
        };
        let lost = || OpenError::SessionLost("lost".to_owned());
        self.open_requests.send(open).map_err(|_| lost())?;
        tokio::select! {
            answer = answered => answer.unwrap_or_else(|_| Err(lost())),
            () = self.lost.cancelled() => Err(lost()),
        }
    }

    async fn request_forward(&self, listen: &ListenAddr) -> Result<u16, Failure> {
        let refused = || Failure::new(FailureKind::RemoteForwardRefused, "the port is taken");
        let (answer, answered) = oneshot::channel();
        let request = GlobalRequest::Listen(listen.clone(), answer);
        self.global_requests.send(request).map_err(|_| refused())?;
        answered.await.ok().flatten().ok_or_else(refused)
    }

    fn server(&self) -> String {
        "fake".to_owned()
    }

    async fn cancel_forward(&self, listen: &ListenAddr, _: u16) -> Result<(), Failure> {
        let _ = self
            .global_requests
            .send(GlobalRequest::Cancel(listen.clone()));
        std::future::ready(Ok(())).await
    }

    async fn closed(&self) {
        self.lost.cancelled().await;
    }

    fn is_closed(&self) -> bool {
        self.lost.is_cancelled()
    }
}

/// A channel that the test opens.
pub(super) struct FakeIncoming {
    listen: ListenAddr,
    port: u16,
    channel: FakeChannel,
    refused: oneshot::Sender<String>,
}

impl Server {
    /// Opens a channel for a remote forward. Returns the server's end, and a receiver of the text if it is refused.
    pub(super) async fn connect(
        &self,
        listen: ListenAddr,
        port: u16,
    ) -> (Peer, oneshot::Receiver<String>) {
        let (channel, peer) = channel(self.lost.clone());
        let (refused, why) = oneshot::channel();
        let incoming = FakeIncoming {
            listen,
            port,
            channel,
            refused,
        };
        assert!(
            self.incoming.send(incoming).await.is_ok(),
            "incoming channels are received"
        );
        (peer, why)
    }

    /// Waits for the next channel that the client wants to open.
    pub(super) async fn next_open_request(&mut self) -> OpenRequest {
        self.open_requests
            .recv()
            .await
            .expect("the session is alive")
    }

    /// Grants the next request to listen with `port`, or refuses it with `None`.
    pub(super) async fn answer(&mut self, port: Option<u16>) -> ListenAddr {
        match self
            .global_requests
            .recv()
            .await
            .expect("the session is alive")
        {
            GlobalRequest::Listen(listen, answer) => {
                let _ = answer.send(port);
                listen
            }
            GlobalRequest::Cancel(listen) => panic!("unexpected cancellation of {listen}"),
        }
    }
}

impl IncomingChannel for FakeIncoming {
    type Channel = FakeChannel;

    fn listen(&self) -> &ListenAddr {
        &self.listen
    }

    fn port(&self) -> u16 {
        self.port
    }

    async fn accept(self) -> io::Result<FakeChannel> {
        std::future::ready(Ok(self.channel)).await
    }

    async fn refuse(self, why: &str) {
        let _ = std::future::ready(self.refused.send(why.to_owned())).await;
    }
}

/// A message on a channel; CLOSE is the end of the queue.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Data(Bytes),
    Eof,
}

/// The client's end of a channel, for the code under test.
pub(super) struct FakeChannel {
    reader: FakeReader,
    writer: FakeWriter,
}

pub(super) struct FakeReader {
    from_server: mpsc::Receiver<Message>,
    partial: Bytes,
    ended: bool,
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
}

pub(super) struct FakeWriter {
    to_server: PollSender<Message>,
    closed: CancellationToken,
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The server's end of a channel. Dropping it sends CLOSE.
pub(super) struct Peer {
    pub(super) to_local: mpsc::Sender<Message>,
    pub(super) from_local: mpsc::Receiver<Message>,
    closed: CancellationToken,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Peer {
    pub(super) async fn send_data(&self, bytes: &[u8]) {
        let message = Message::Data(Bytes::copy_from_slice(bytes));
        self.to_local
            .send(message)
            .await
            .expect("the channel is open");
    }

    pub(super) async fn send_eof(&self) {
        self.to_local
            .send(Message::Eof)
            .await
            .expect("the channel is open");
    }

    /// Returns all bytes up to EOF; `Err` with the bytes if CLOSE arrives first.
    pub(super) async fn receive_to_eof(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        let mut received = Vec::new();
        loop {
            match self.from_local.recv().await {
                Some(Message::Data(bytes)) => received.extend_from_slice(&bytes),
                Some(Message::Eof) => return Ok(received),
                None => return Err(received),
            }
        }
    }

    /// Receives exactly `count` bytes.
    pub(super) async fn receive_exactly(&mut self, count: usize) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < count {
            match self.from_local.recv().await {
                Some(Message::Data(bytes)) => received.extend_from_slice(&bytes),
                other => panic!("{other:?} after {received:?}"),
            }
        }
        assert_eq!(received.len(), count, "{received:?}");
        received
    }
}

/// Returns both ends of a new channel. Cancelling `lost` is the loss of the session.
pub(super) fn channel(lost: CancellationToken) -> (FakeChannel, Peer) {
    let (to_local, from_server) = mpsc::channel(WINDOW);
    let (to_server, from_local) = mpsc::channel(WINDOW);
    let closed = CancellationToken::new();
    let reader = FakeReader {
        from_server,
        partial: Bytes::new(),
        ended: false,
        lost: Box::pin(lost.clone().cancelled_owned()),
    };
    let writer = FakeWriter {
        to_server: PollSender::new(to_server),
        closed: closed.clone(),
        lost: Box::pin(lost.cancelled_owned()),
    };
    let peer = Peer {
        to_local,
        from_local,
        closed,
    };
    (FakeChannel { reader, writer }, peer)
}

impl FakeReader {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        match self.from_server.poll_recv(cx) {
            Poll::Ready(Some(Message::Data(bytes))) => Poll::Ready(Ok(Some(bytes))),
            Poll::Ready(Some(Message::Eof)) => {
                self.ended = true;
                Poll::Ready(Ok(None))
            }
            Poll::Ready(None) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => {
                ready!(self.lost.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
        }
    }
}

impl SshChannelReader for FakeReader {
    async fn next_pieces(&mut self, pieces: &mut Vec<Bytes>, _: usize) -> io::Result<bool> {
        let bytes = match std::mem::take(&mut self.partial) {
            start if start.is_empty() => std::future::poll_fn(|cx| self.poll_next(cx)).await?,
            start => Some(start),
        };
        let more = bytes.is_some();
        pieces.extend(bytes);
        Ok(more)
    }
}

impl SshChannelWriter for FakeWriter {
    async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl SshChannel for FakeChannel {
    type Reader = FakeReader;
    type Writer = FakeWriter;

    fn split(self) -> (FakeReader, FakeWriter) {
        (self.reader, self.writer)
    }
}

impl FakeWriter {
    fn poll_send(&mut self, cx: &mut Context<'_>, message: Message) -> Poll<io::Result<()>> {
        if self.lost.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let broken = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.to_server.poll_reserve(cx)).map_err(broken)?;
        Poll::Ready(self.to_server.send_item(message).map_err(broken))
    }
}

impl AsyncWrite for FakeWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let message = Message::Data(Bytes::copy_from_slice(bytes));
        ready!(self.poll_send(cx, message))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx, Message::Eof)
    }
}

impl AsyncRead for FakeChannel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reader.partial.is_empty() {
            match ready!(self.reader.poll_next(cx))? {
                Some(bytes) => self.reader.partial = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = buffer.remaining().min(self.reader.partial.len());
        buffer.put_slice(&self.reader.partial.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FakeChannel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
