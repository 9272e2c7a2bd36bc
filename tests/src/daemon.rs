//! The real tunneld in a temporary home: started, waited for by its events, killed by its id.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};
use tunneld_proto::message::{Event, EventBody, Snapshot};
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};

use crate::home::Home;
use crate::process::{Log, Process};
use crate::rpc::{self, Rpc};
use crate::wait::{LONG, within};

/// A running tunneld.
pub struct Daemon {
    process: Process,
    socket: PathBuf,
}

impl Daemon {
    /// Starts tunneld in `home` and waits until it says that it is ready.
    ///
    /// # Errors
    /// Where it does not get ready; the message bears its log.
    pub async fn start(home: &Home) -> Result<Self> {
        Self::launch(home, home.command("tunneld")?).await
    }

    /// Starts tunneld by `command`, prepared by [`Home::command`], and waits until it says that it is ready.
    ///
    /// # Errors
    /// Where it does not get ready; the message bears its log.
    pub async fn launch(home: &Home, mut command: Command) -> Result<Self> {
        let path = home.path("notify.sock");
        let _ = std::fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path)?;
        command.env("NOTIFY_SOCKET", &path);
        let mut process = Process::start("tunneld", command)?;
        let mut message = vec![0; 4096];
        let ready = async {
            loop {
                let n = notify.recv(&mut message).await?;
                let text = String::from_utf8_lossy(message.get(..n).unwrap_or_default());
                if text.lines().any(|line| line == "READY=1") {
                    return Ok::<_, std::io::Error>(());
                }
            }
        };
        let log = process.log().clone();
        tokio::select! {
            ready = tokio::time::timeout(LONG, ready) => {
                ready.with_context(|| format!("tunneld is not ready:\n{}", log.text()))??;
            }
            ended = process.ended(LONG * 2) => {
                bail!("tunneld ended with {}:\n{}", ended?, log.text());
            }
        }
        Ok(Self {
            process,
            socket: home.socket(),
        })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// A control connection, hello said.
    ///
    /// # Errors
    /// Where the daemon does not answer.
    pub async fn rpc(&self) -> Result<Rpc> {
        within(LONG, "hello", Rpc::hello(&self.socket)).await?
    }

    /// Calls one method on a fresh connection.
    ///
    /// # Errors
    /// Where the daemon does not answer, or answers with an error.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value> {
        rpc::once(&self.socket, method, params).await
    }

    /// Subscribes to its events.
    ///
    /// # Errors
    /// Where the daemon does not answer.
    pub async fn watch(&self) -> Result<Watch> {
        let mut rpc = self.rpc().await?;
        let snapshot = rpc.call("events.subscribe", json!({})).await??;
        let snapshot: Snapshot = serde_json::from_value(snapshot)?;
        let mut watch = Watch {
            rpc,
            tunnels: BTreeMap::new(),
            log: self.log().clone(),
        };
        watch.take(snapshot.tunnels);
        Ok(watch)
    }

    /// Waits until the tunnel `name` is so.
    ///
    /// # Errors
    /// Where it is not in time; the message bears the last status and the log.
    pub async fn wait_for(
        &self,
        name: &str,
        limit: Duration,
        so: impl Fn(&TunnelStatus) -> bool,
    ) -> Result<TunnelStatus> {
        self.watch().await?.until(name, limit, so).await
    }

    /// Waits until the tunnel `name` is up.
    ///
    /// # Errors
    /// Where it is not in time.
    pub async fn wait_up(&self, name: &str) -> Result<TunnelStatus> {
        self.wait_for(name, LONG, |tunnel| tunnel.state == State::Up)
            .await
    }

    /// How the tunnel `name` stands.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn status(&self, name: &str) -> Result<TunnelStatus> {
        let tunnels = self.call("tunnel.status", json!({"names": [name]})).await?;
        let first = tunnels["tunnels"].get(0).cloned();
        Ok(serde_json::from_value(first.context("no such tunnel")?)?)
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// Where it still runs after `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.process.ended(limit).await
    }

    /// Kills it with SIGKILL and waits for the end.
    ///
    /// # Errors
    /// Where the kernel keeps it.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }
}

/// A subscription to a daemon's events.
pub struct Watch {
    rpc: Rpc,
    tunnels: BTreeMap<String, TunnelStatus>,
    log: Log,
}

impl Watch {
    fn take(&mut self, tunnels: Vec<TunnelStatus>) {
        self.tunnels = tunnels
            .into_iter()
            .map(|tunnel| (tunnel.name.clone(), tunnel))
            .collect();
    }

    /// The tunnels as last told.
    pub fn tunnels(&self) -> &BTreeMap<String, TunnelStatus> {
        &self.tunnels
    }

    /// Waits for the next event and takes it in.
    ///
    /// # Errors
    /// Where none comes in time.
    pub async fn next(&mut self, limit: Duration) -> Result<Option<EventBody>> {
        let mut object = self.rpc.notification(limit).await?;
        let params = object["params"].take();
        if object["method"] == "lagged" {
            let snapshot: Snapshot = serde_json::from_value(params)?;
            self.take(snapshot.tunnels);
            return Ok(None);
        }
        let event: Event = serde_json::from_value(params)?;
        match &event.body {
            EventBody::Tunnel { tunnel } => {
                self.tunnels
                    .insert(tunnel.name.clone(), tunnel.as_ref().clone());
            }
            EventBody::Removed { name } => {
                self.tunnels.remove(name);
            }
            _ => {}
        }
        Ok(Some(event.body))
    }

    /// Waits until the tunnel `name` is so; every state on the way is looked at.
    ///
    /// # Errors
    /// Where it is not in time; the message bears the last status and the log.
    pub async fn until(
        &mut self,
        name: &str,
        limit: Duration,
        so: impl Fn(&TunnelStatus) -> bool,
    ) -> Result<TunnelStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(tunnel) = self.tunnels.get(name)
                && so(tunnel)
            {
                return Ok(tunnel.clone());
            }
            match timeout_at(deadline, self.next(limit * 2)).await {
                Ok(next) => drop(next?),
                Err(_) => bail!(
                    "the tunnel {name} did not get there in {limit:?}; it is {:#?}\nthe log:\n{}",
                    self.tunnels.get(name),
                    self.log.text()
                ),
            }
        }
    }

    /// Waits until all of these tunnels are so.
    ///
    /// # Errors
    /// Where one is not in time.
    pub async fn until_all(
        &mut self,
        names: &[&str],
        limit: Duration,
        so: impl Fn(&TunnelStatus) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        for name in names {
            let left = deadline.saturating_duration_since(Instant::now());
            self.until(name, left, &so).await?;
        }
        Ok(())
    }
}

/// The bound address of the tunnel's first forward of this kind.
///
/// # Errors
/// Where it has none, or none that is bound.
pub fn listen(tunnel: &TunnelStatus, kind: ForwardKind) -> Result<SocketAddr> {
    let mut forwards = tunnel.forwards.iter();
    let forward = forwards.find(|forward| forward.kind == kind);
    listen_of(forward.context("no such forward")?.listen.as_str())
}

/// The bound address of the tunnel's forward number `index`.
///
/// # Errors
/// Where it has none, or none that is bound.
pub fn listen_at(tunnel: &TunnelStatus, index: usize) -> Result<SocketAddr> {
    let forward = tunnel.forwards.get(index).context("no such forward")?;
    listen_of(&forward.listen)
}

fn listen_of(text: &str) -> Result<SocketAddr> {
    let addr = text.replace("localhost:", "127.0.0.1:");
    let addr: SocketAddr = addr
        .parse()
        .with_context(|| format!("no address: {text}"))?;
    if addr.port() == 0 {
        bail!("the forward {text} is not bound yet");
    }
    Ok(addr)
}
