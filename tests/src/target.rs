//! What stands behind a forward: small servers that tell how each of their connections went.

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
pub enum Manner {
    /// Sends back what comes, as it comes, and closes after the other side.
    Echo,
    /// Reads until the other side closes its direction, then sends all of it back and closes.
    Collect,
    /// Sends these bytes, closes that direction, then reads to the end.
    Source(Arc<[u8]>),
    /// Never reads and never writes.
    Silent,
    /// Answers one HTTP request with this body.
    Http(String),
}

/// How one connection of a target ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// What the target received.
    pub received: Vec<u8>,
    /// Whether the other side closed in order; false for a reset.
    pub clean: bool,
}

/// A server behind a forward.
pub struct Target {
    addr: Option<SocketAddr>,
    accepted: watch::Receiver<u64>,
    ended: mpsc::UnboundedReceiver<Ended>,
    _tasks: JoinSet<()>,
}

impl Target {
    /// A target on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub async fn start(manner: Manner) -> Result<Self> {
        Self::at("127.0.0.1:0", manner).await
    }

    /// A target at `addr`.
    ///
    /// # Errors
    /// Where it cannot be bound.
    pub async fn at(addr: &str, manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("cannot listen on {addr}"))?;
        let addr = Some(listener.local_addr()?);
        let serve = async move |hub: Hub| {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                hub.accepted.send_modify(|n| *n += 1);
                served.spawn(hub.clone().serve(stream));
            }
        };
        Ok(Self::with(addr, manner, serve))
    }

    /// An echo on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub async fn echo() -> Result<Self> {
        Self::start(Manner::Echo).await
    }

    /// A target on the Unix socket `path`.
    ///
    /// # Errors
    /// Where it cannot be bound.
    pub fn unix(path: &Path, manner: Manner) -> Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let serve = async move |hub: Hub| {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                hub.accepted.send_modify(|n| *n += 1);
                served.spawn(hub.clone().serve(stream));
            }
        };
        Ok(Self::with(None, manner, serve))
    }

    fn with<F>(
        addr: Option<SocketAddr>,
        manner: Manner,
        serve: impl FnOnce(Hub) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (count, accepted) = watch::channel(0);
        let (report, ended) = mpsc::unbounded_channel();
        let hub = Hub {
            manner,
            accepted: Arc::new(count),
            report,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(hub));
        Self {
            addr,
            accepted,
            ended,
            _tasks: tasks,
        }
    }

    /// Its address. A Unix target has none: the unspecified one.
    pub fn addr(&self) -> SocketAddr {
        self.addr.unwrap_or_else(|| ([0, 0, 0, 0], 0).into())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// How many connections it has taken.
    pub fn accepted(&self) -> u64 {
        *self.accepted.borrow()
    }

    /// Waits until it has taken `count` connections.
    ///
    /// # Errors
    /// Where it has not in time.
    pub async fn wait_accepted(&mut self, count: u64, limit: Duration) -> Result<()> {
        let what = format!("{count} connections at the target");
        crate::wait::within(limit, &what, self.accepted.wait_for(|n| *n >= count)).await??;
        Ok(())
    }

    /// Waits for the end of the next connection.
    ///
    /// # Errors
    /// Where none ends in time.
    pub async fn next_end(&mut self, limit: Duration) -> Result<Ended> {
        crate::wait::within(
            limit,
            "a connection of the target to end",
            self.ended.recv(),
        )
        .await?
        .context("the target is gone")
    }
}

#[derive(Clone)]
struct Hub {
    manner: Manner,
    accepted: Arc<watch::Sender<u64>>,
    report: mpsc::UnboundedSender<Ended>,
}

impl Hub {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S) {
        let mut received = Vec::new();
        let result = match &self.manner {
            Manner::Echo => echo(&mut stream, &mut received).await,
            Manner::Collect => collect(&mut stream, &mut received).await,
            Manner::Source(bytes) => source(&mut stream, bytes, &mut received).await,
            Manner::Silent => std::future::pending().await,
            Manner::Http(body) => http(&mut stream, body, &mut received).await,
        };
        let clean = result.is_ok();
        let _ = self.report.send(Ended { received, clean });
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

async fn collect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    received: &mut Vec<u8>,
) -> std::io::Result<()> {
    stream.read_to_end(received).await?;
    stream.write_all(received).await?;
    stream.shutdown().await
}

async fn source<S: AsyncRead + AsyncWrite + Unpin>(
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
