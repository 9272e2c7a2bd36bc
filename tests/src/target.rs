//! Small servers behind a forward that report how each of their connections ended.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// What a target does with a connection.
#[derive(Clone)]
pub enum TargetBehavior {
    /// Sends back every byte as it arrives, and closes after the end of file.
    Echo,
    /// Reads to the end of file, then sends everything back and closes.
    EchoAtEof,
    /// Sends these bytes and half-closes, then reads to the end of file.
    SendThenRead(Arc<[u8]>),
    /// Accepts and then neither reads nor writes.
    NeverRead,
    /// Reads one HTTP request and replies with this body.
    HttpResponse(String),
}

/// How one connection of a target ended.
#[derive(Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// The bytes that the target received.
    pub received: Vec<u8>,
    /// True for an end of file, false for a reset.
    pub clean: bool,
}

/// A server behind a forward. It ends with all its connections on drop.
pub struct Target {
    /// `None` on a Unix socket.
    addr: Option<SocketAddr>,
    accepted: watch::Receiver<u64>,
    ends: mpsc::UnboundedReceiver<ConnectionEnd>,
    _tasks: JoinSet<()>,
}

impl Target {
    /// Starts a target on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start(behavior: TargetBehavior) -> Result<Self> {
        Self::at("127.0.0.1:0", behavior).await
    }

    /// Starts a target on `addr`, written as `IP:PORT`.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub async fn at(addr: &str, behavior: TargetBehavior) -> Result<Self> {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("cannot listen on {addr}"))?;
        let addr = Some(listener.local_addr()?);
        let accept = async move |service: Service| {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(service.accepted().serve(stream));
            }
        };
        Ok(Self::spawn(addr, behavior, accept))
    }

    /// Starts a [`TargetBehavior::Echo`] on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn echo() -> Result<Self> {
        Self::start(TargetBehavior::Echo).await
    }

    /// Starts a target on the Unix socket `path`.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn unix(path: &Path, behavior: TargetBehavior) -> Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let accept = async move |service: Service| {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(service.accepted().serve(stream));
            }
        };
        Ok(Self::spawn(None, behavior, accept))
    }

    fn spawn<F>(
        addr: Option<SocketAddr>,
        behavior: TargetBehavior,
        accept: impl FnOnce(Service) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (accepted_count, accepted) = watch::channel(0);
        let (end_sender, ends) = mpsc::unbounded_channel();
        let service = Service {
            behavior,
            accepted_count: Arc::new(accepted_count),
            end_sender,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(service));
        Self {
            addr,
            accepted,
            ends,
            _tasks: tasks,
        }
    }

    /// Its address; 0.0.0.0:0 for a target on a Unix socket.
    pub fn addr(&self) -> SocketAddr {
        self.addr.unwrap_or_else(|| ([0, 0, 0, 0], 0).into())
    }

    /// Its port; 0 for a target on a Unix socket.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// The number of connections accepted so far.
    pub fn accepted(&self) -> u64 {
        *self.accepted.borrow()
    }

    /// Waits until it has accepted at least `count` connections.
    ///
    /// # Errors
    /// If it has not within `limit`.
    pub async fn wait_accepted(&mut self, count: u64, limit: Duration) -> Result<()> {
        let what = format!("{count} connections at the target");
        crate::wait::within(limit, &what, self.accepted.wait_for(|n| *n >= count)).await??;
        Ok(())
    }

    /// Waits until the next connection ends. Connections are reported in the order in which they end.
    ///
    /// # Errors
    /// If none ends within `limit`.
    pub async fn next_end(&mut self, limit: Duration) -> Result<ConnectionEnd> {
        let what = "a connection of the target to end";
        crate::wait::within(limit, what, self.ends.recv())
            .await?
            .context("the task of the target has ended")
    }
}

/// What serves the connections of a target.
#[derive(Clone)]
struct Service {
    behavior: TargetBehavior,
    accepted_count: Arc<watch::Sender<u64>>,
    end_sender: mpsc::UnboundedSender<ConnectionEnd>,
}

impl Service {
    /// Counts an accepted connection and returns the service for it.
    fn accepted(&self) -> Self {
        self.accepted_count.send_modify(|n| *n += 1);
        self.clone()
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S) {
        let mut received = Vec::new();
        let result = match &self.behavior {
            TargetBehavior::Echo => echo(&mut stream, &mut received).await,
            TargetBehavior::EchoAtEof => echo_at_eof(&mut stream, &mut received).await,
            TargetBehavior::SendThenRead(bytes) => {
                send_then_read(&mut stream, bytes, &mut received).await
            }
            TargetBehavior::NeverRead => std::future::pending().await,
            TargetBehavior::HttpResponse(body) => http(&mut stream, body, &mut received).await,
        };
        let clean = result.is_ok();
        let _ = self.end_sender.send(ConnectionEnd { received, clean });
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    received: &mut Vec<u8>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buffer).await?;
        let part = buffer.get(..n).unwrap_or_default();
        if part.is_empty() {
            return stream.shutdown().await;
        }
        received.extend_from_slice(part);
        stream.write_all(part).await?;
    }
}

async fn echo_at_eof<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    received: &mut Vec<u8>,
) -> std::io::Result<()> {
    stream.read_to_end(received).await?;
    stream.write_all(received).await?;
    stream.shutdown().await
}

async fn send_then_read<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    received: &mut Vec<u8>,
) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    stream.read_to_end(received).await?;
    Ok(())
}

async fn http<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    body: &str,
    received: &mut Vec<u8>,
) -> std::io::Result<()> {
    while !received.ends_with(b"\r\n\r\n") {
        received.push(stream.read_u8().await?);
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
