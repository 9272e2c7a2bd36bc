//! A TCP proxy between client and server that tests can make slow, silent, broken, refusing or corrupting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

#[derive(Clone, Default)]
struct Faults {
    frozen: bool,
    delay: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Reset,
    Close,
}

/// A link to one server. It ends with all its connections on drop.
pub struct FaultyLink {
    addr: SocketAddr,
    relay: Relay,
    /// The number of the last cut: a change cuts every connection.
    cuts: watch::Sender<(u64, Cut)>,
    /// Whether the listener is to accept connections.
    accepting: watch::Sender<bool>,
    /// Whether the listener is bound.
    bound: watch::Receiver<bool>,
    connections: watch::Receiver<u64>,
    _task: JoinSet<()>,
}

/// What the relay of every connection shares with the link.
#[derive(Clone)]
struct Relay {
    server: SocketAddr,
    faults: Arc<watch::Sender<Faults>>,
    /// Bytes from the server until one bit is flipped; negative for never.
    flip_after: Arc<AtomicI64>,
    connections: Arc<watch::Sender<u64>>,
}

impl FaultyLink {
    /// Starts a link to `server` on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn to(server: SocketAddr) -> Result<Self> {
        // A port outside the ephemeral range, so that it can be bound again after `refuse_new`.
        let port = crate::ports::free()?;
        let listener = TcpListener::bind(crate::ports::local(port)).await?;
        let addr = listener.local_addr()?;
        let (connection_count, connections) = watch::channel(0);
        let relay = Relay {
            server,
            faults: Arc::new(watch::channel(Faults::default()).0),
            flip_after: Arc::new(AtomicI64::new(-1)),
            connections: Arc::new(connection_count),
        };
        let (cuts, _) = watch::channel((0, Cut::Close));
        let (accepting, accepting_seen) = watch::channel(true);
        let (bound, bound_seen) = watch::channel(true);
        let mut task = JoinSet::new();
        task.spawn(accept(
            listener,
            relay.clone(),
            cuts.subscribe(),
            accepting_seen,
            bound,
        ));
        Ok(Self {
            addr,
            relay,
            cuts,
            accepting,
            bound: bound_seen,
            connections,
            _task: task,
        })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Stops relaying in both directions without closing anything: to both sides the other one is silent.
    pub fn freeze(&self) {
        self.relay.faults.send_modify(|faults| faults.frozen = true);
    }

    /// Relays again, beginning with what was received while frozen.
    pub fn thaw(&self) {
        self.relay
            .faults
            .send_modify(|faults| faults.frozen = false);
    }

    /// Delays every byte by `delay`, in each direction.
    pub fn set_delay(&self, delay: Duration) {
        self.relay.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Flips one bit, once, after `bytes` more bytes from the server.
    pub fn flip_bit_after(&self, bytes: i64) {
        self.relay.flip_after.store(bytes, Ordering::SeqCst);
    }

    /// Resets every connection, on both sides.
    pub fn reset_all(&self) {
        self.cuts.send_modify(|cut| *cut = (cut.0 + 1, Cut::Reset));
    }

    /// Closes every connection with a FIN, on both sides.
    pub fn close_all(&self) {
        self.cuts.send_modify(|cut| *cut = (cut.0 + 1, Cut::Close));
    }

    /// Closes the listener, so that new connections are refused, and returns when it is closed.
    ///
    /// # Errors
    /// If the task of the link has ended.
    pub async fn refuse_new(&mut self) -> Result<()> {
        self.accepting.send_replace(false);
        self.bound.wait_for(|bound| !bound).await?;
        Ok(())
    }

    /// Binds the listener again after [`Self::refuse_new`], and returns when it is bound.
    ///
    /// # Errors
    /// If the port cannot be bound in time.
    pub async fn accept_new(&mut self) -> Result<()> {
        self.accepting.send_replace(true);
        let what = "the link to listen again";
        crate::wait::within(crate::wait::LONG, what, self.bound.wait_for(|bound| *bound)).await??;
        Ok(())
    }

    /// Waits until exactly `count` connections are open.
    ///
    /// # Errors
    /// If they are not within `limit`.
    pub async fn wait_connections(&mut self, count: u64, limit: Duration) -> Result<()> {
        let what = format!("{count} connections over the link");
        crate::wait::within(limit, &what, self.connections.wait_for(|n| *n == count))
            .await?
            .context("the task of the link has ended")?;
        Ok(())
    }
}

async fn accept(
    listener: TcpListener,
    relay: Relay,
    cuts: watch::Receiver<(u64, Cut)>,
    mut accepting: watch::Receiver<bool>,
    bound: watch::Sender<bool>,
) {
    let mut connections = JoinSet::new();
    let Ok(addr) = listener.local_addr() else {
        return;
    };
    let mut listener = Some(listener);
    loop {
        let accepted = match &listener {
            Some(listener) => tokio::select! {
                accepted = listener.accept() => accepted.ok(),
                _ = accepting.wait_for(|accepting| !accepting) => None,
            },
            None => {
                if accepting.wait_for(|accepting| *accepting).await.is_err() {
                    return;
                }
                None
            }
        };
        match accepted {
            Some((stream, _)) => {
                connections.spawn(relay.clone().run(stream, cuts.clone()));
            }
            None if !*accepting.borrow() => {
                listener = None;
                bound.send_replace(false);
            }
            None if listener.is_none() => match TcpListener::bind(addr).await {
                Ok(new) => {
                    listener = Some(new);
                    bound.send_replace(true);
                }
                // Another process may have the port for a moment.
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            None => {}
        }
    }
}

impl Relay {
    /// Relays one connection until both directions end or it is cut.
    async fn run(self, mut client: TcpStream, mut cuts: watch::Receiver<(u64, Cut)>) {
        // Only cuts from now on count.
        let _ = cuts.borrow_and_update();
        let mut faults = self.faults.subscribe();
        // A frozen link accepts a connection, as the kernel of a hung server does, and goes no further.
        tokio::select! {
            _ = faults.wait_for(|faults| !faults.frozen) => {}
            _ = cuts.changed() => {}
        }
        let Ok(mut server) = TcpStream::connect(self.server).await else {
            return;
        };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        self.connections.send_modify(|n| *n += 1);
        let cut = {
            let (client_read, client_write) = client.split();
            let (server_read, server_write) = server.split();
            let no_flip = Arc::new(AtomicI64::new(-1));
            let up = self.copy(client_read, server_write, no_flip);
            let down = self.copy(server_read, client_write, self.flip_after.clone());
            tokio::select! {
                _ = async { tokio::join!(up, down) } => Cut::Close,
                _ = cuts.changed() => cuts.borrow().1,
            }
        };
        if cut == Cut::Reset {
            // A linger of zero makes the close a reset.
            let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            let _ = SockRef::from(&server).set_linger(Some(Duration::ZERO));
        }
        drop((client, server));
        self.connections.send_modify(|n| *n -= 1);
    }

    /// Copies one direction to its end of file. Reading and writing are separate, so that a delay does not reduce
    /// the throughput.
    async fn copy(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        flip_after: Arc<AtomicI64>,
    ) -> io::Result<()> {
        // Bounded: a frozen link stops reading after 256 parts, as a full socket buffer would.
        let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(256);
        let read_faults = self.faults.subscribe();
        let read = async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let n = from.read(&mut buffer).await?;
                let mut part = buffer.get(..n).unwrap_or_default().to_vec();
                if part.is_empty() {
                    return Ok::<_, io::Error>(());
                }
                corrupt(&mut part, &flip_after);
                let due = Instant::now() + read_faults.borrow().delay;
                if sender.send((due, part)).await.is_err() {
                    return Ok(());
                }
            }
        };
        let mut write_faults = self.faults.subscribe();
        let write = async move {
            while let Some((due, part)) = queue.recv().await {
                sleep_until(due).await;
                if write_faults
                    .wait_for(|faults| !faults.frozen)
                    .await
                    .is_err()
                {
                    return Ok(());
                }
                to.write_all(&part).await?;
            }
            to.shutdown().await
        };
        tokio::try_join!(read, write)?;
        Ok(())
    }
}

/// Flips the lowest bit of the byte that `flip_after` counts down to, if it is in `part`.
fn corrupt(part: &mut [u8], flip_after: &AtomicI64) {
    let left = flip_after.load(Ordering::SeqCst);
    if left < 0 {
        return;
    }
    let rest = left - i64::try_from(part.len()).unwrap_or(i64::MAX);
    flip_after.store(rest, Ordering::SeqCst);
    if rest < 0
        && let Ok(at) = usize::try_from(left)
        && let Some(byte) = part.get_mut(at)
    {
        *byte ^= 1;
    }
}
