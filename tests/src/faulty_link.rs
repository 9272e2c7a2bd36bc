//! A line between client and server that can be slow, silent, cut, refused or corrupt: a TCP proxy with knobs.

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
struct Knobs {
    frozen: bool,
    delay: Duration,
    rate: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Reset,
    Close,
}

/// A faulty line to one server.
pub struct Link {
    addr: SocketAddr,
    wires: Wires,
    cuts: watch::Sender<(u64, Cut)>,
    open: watch::Sender<bool>,
    bound: watch::Receiver<bool>,
    live: watch::Receiver<u64>,
    _task: JoinSet<()>,
}

#[derive(Clone)]
struct Wires {
    to: SocketAddr,
    knobs: Arc<watch::Sender<Knobs>>,
    /// Bytes until one is flipped; negative for never.
    flip: Arc<AtomicI64>,
    live: Arc<watch::Sender<u64>>,
}

impl Link {
    /// A line to `to` on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub async fn to(to: SocketAddr) -> Result<Self> {
        let port = crate::ports::free()?;
        let listener = TcpListener::bind(crate::ports::local(port)).await?;
        let addr = listener.local_addr()?;
        let (live, live_seen) = watch::channel(0);
        let wires = Wires {
            to,
            knobs: Arc::new(watch::channel(Knobs::default()).0),
            flip: Arc::new(AtomicI64::new(-1)),
            live: Arc::new(live),
        };
        let (cuts, _) = watch::channel((0, Cut::Close));
        let (open, open_seen) = watch::channel(true);
        let (bound, bound_seen) = watch::channel(true);
        let mut task = JoinSet::new();
        task.spawn(accept(
            listener,
            wires.clone(),
            cuts.subscribe(),
            open_seen,
            bound,
        ));
        Ok(Self {
            addr,
            wires,
            cuts,
            open,
            bound: bound_seen,
            live: live_seen,
            _task: task,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it listens, the port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Nothing passes any more, in either direction, and nobody is told: a black hole.
    pub fn freeze(&self) {
        self.wires.knobs.send_modify(|knobs| knobs.frozen = true);
    }

    /// What was frozen flows again.
    pub fn thaw(&self) {
        self.wires.knobs.send_modify(|knobs| knobs.frozen = false);
    }

    /// Every byte takes so long, each way.
    pub fn delay(&self, delay: Duration) {
        self.wires.knobs.send_modify(|knobs| knobs.delay = delay);
    }

    /// At most so many bytes a second, each way and connection.
    pub fn rate(&self, bytes: Option<u64>) {
        self.wires.knobs.send_modify(|knobs| knobs.rate = bytes);
    }

    /// Flips one bit, once, after so many more bytes from the server.
    pub fn flip_after(&self, bytes: i64) {
        self.wires.flip.store(bytes, Ordering::SeqCst);
    }

    /// Resets every connection, on both sides.
    pub fn reset(&self) {
        self.cuts.send_modify(|cut| *cut = (cut.0 + 1, Cut::Reset));
    }

    /// Closes every connection in order, on both sides.
    pub fn close(&self) {
        self.cuts.send_modify(|cut| *cut = (cut.0 + 1, Cut::Close));
    }

    /// New connections are refused.
    ///
    /// # Errors
    /// Where the line is gone.
    pub async fn refuse(&mut self) -> Result<()> {
        self.open.send_replace(false);
        self.bound.wait_for(|bound| !bound).await?;
        Ok(())
    }

    /// New connections are taken again.
    ///
    /// # Errors
    /// Where the line is gone.
    pub async fn accept(&mut self) -> Result<()> {
        self.open.send_replace(true);
        let what = "the line to listen again";
        crate::wait::within(crate::wait::LONG, what, self.bound.wait_for(|bound| *bound)).await??;
        Ok(())
    }

    /// Waits until `count` connections are open.
    ///
    /// # Errors
    /// Where they are not in time.
    pub async fn wait_live(&mut self, count: u64, limit: Duration) -> Result<()> {
        let what = format!("{count} connections over the line");
        crate::wait::within(limit, &what, self.live.wait_for(|n| *n == count))
            .await?
            .context("the line is gone")?;
        Ok(())
    }
}

async fn accept(
    listener: TcpListener,
    wires: Wires,
    cuts: watch::Receiver<(u64, Cut)>,
    mut open: watch::Receiver<bool>,
    bound: watch::Sender<bool>,
) {
    let mut connections = JoinSet::new();
    let Ok(addr) = listener.local_addr() else {
        return;
    };
    let mut listener = Some(listener);
    loop {
        let taken = match &listener {
            Some(listener) => tokio::select! {
                taken = listener.accept() => taken.ok(),
                _ = open.wait_for(|open| !open) => None,
            },
            None => {
                if open.wait_for(|open| *open).await.is_err() {
                    return;
                }
                None
            }
        };
        match taken {
            Some((stream, _)) => {
                connections.spawn(wires.clone().carry(stream, cuts.clone()));
            }
            None if !*open.borrow() => {
                listener = None;
                bound.send_replace(false);
            }
            None if listener.is_none() => match TcpListener::bind(addr).await {
                Ok(again) => {
                    listener = Some(again);
                    bound.send_replace(true);
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            None => {}
        }
    }
}

impl Wires {
    async fn carry(self, mut near: TcpStream, mut cuts: watch::Receiver<(u64, Cut)>) {
        let _ = cuts.borrow_and_update();
        let mut knobs = self.knobs.subscribe();
        tokio::select! {
            _ = knobs.wait_for(|knobs| !knobs.frozen) => {}
            _ = cuts.changed() => {}
        }
        let Ok(mut far) = TcpStream::connect(self.to).await else {
            return;
        };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        self.live.send_modify(|n| *n += 1);
        let cut = {
            let (near_read, near_write) = near.split();
            let (far_read, far_write) = far.split();
            let no_flip = Arc::new(AtomicI64::new(-1));
            let up = self.pump(near_read, far_write, no_flip);
            let down = self.pump(far_read, near_write, self.flip.clone());
            tokio::select! {
                _ = async { tokio::join!(up, down) } => Cut::Close,
                _ = cuts.changed() => cuts.borrow().1,
            }
        };
        if cut == Cut::Reset {
            let _ = SockRef::from(&near).set_linger(Some(Duration::ZERO));
            let _ = SockRef::from(&far).set_linger(Some(Duration::ZERO));
        }
        drop((near, far));
        self.live.send_modify(|n| *n -= 1);
    }

    async fn pump(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        flip: Arc<AtomicI64>,
    ) -> io::Result<()> {
        let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(256);
        let read_knobs = self.knobs.subscribe();
        let read = async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let n = from.read(&mut buffer).await?;
                let mut part = buffer.get(..n).unwrap_or_default().to_vec();
                if part.is_empty() {
                    return Ok::<_, io::Error>(());
                }
                corrupt(&mut part, &flip);
                let at = Instant::now() + read_knobs.borrow().delay;
                if sender.send((at, part)).await.is_err() {
                    return Ok(());
                }
            }
        };
        let mut write_knobs = self.knobs.subscribe();
        let write = async move {
            while let Some((at, part)) = queue.recv().await {
                sleep_until(at).await;
                let rate = match write_knobs.wait_for(|knobs| !knobs.frozen).await {
                    Ok(knobs) => knobs.rate,
                    Err(_) => return Ok(()),
                };
                to.write_all(&part).await?;
                if let Some(rate) = rate {
                    let seconds = part.len() as f64 / rate as f64;
                    sleep(Duration::from_secs_f64(seconds)).await;
                }
            }
            to.shutdown().await
        };
        tokio::try_join!(read, write)?;
        Ok(())
    }
}

fn corrupt(part: &mut [u8], flip: &AtomicI64) {
    let left = flip.load(Ordering::SeqCst);
    if left < 0 {
        return;
    }
    let rest = left - i64::try_from(part.len()).unwrap_or(i64::MAX);
    flip.store(rest, Ordering::SeqCst);
    if rest < 0
        && let Ok(at) = usize::try_from(left)
        && let Some(byte) = part.get_mut(at)
    {
        *byte ^= 1;
    }
}
