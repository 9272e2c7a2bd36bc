//! The real tunneld in a temporary home, and the event subscription that tests wait with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
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

/// A running tunneld, killed on drop.
pub struct Daemon {
    process: Process,
    socket: PathBuf,
}

impl Daemon {
    /// Starts tunneld in `home` and waits until it sends `READY=1` to the service manager's socket.
    ///
    /// # Errors
    /// If it does not become ready; the message contains its log.
    pub async fn start(home: &Home) -> Result<Self> {
        Self::start_with(home, home.command("tunneld")?).await
    }

    /// Same as [`Self::start`], with a command that [`Home::command`] has prepared and the test has changed.
    ///
    /// # Errors
    /// If it does not become ready; the message contains its log.
    pub async fn start_with(home: &Home, mut command: Command) -> Result<Self> {
        let path = home.path("notify.sock");
        // Left by an earlier daemon in the same home.
        let _ = std::fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path)?;
        // The daemon may run as another user.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?;
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
            ended = process.wait_exit(LONG * 2) => {
                bail!("tunneld ended with {}:\n{}", ended?, log.text());
            }
        }
        Ok(Self {
            process,
            socket: home.socket(),
        })
    }

    /// The daemon's process, for signals and its id.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The lines that the daemon has written to stderr.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// Opens a control connection and completes the hello.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub async fn rpc(&self) -> Result<Rpc> {
        within(LONG, "hello", Rpc::hello(&self.socket)).await?
    }

    /// Calls one method on a new control connection and returns its result.
    ///
    /// # Errors
    /// If the daemon does not answer, or answers with an error.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value> {
        rpc::call_once(&self.socket, method, params).await
    }

    /// Subscribes to the daemon's events.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub async fn watch(&self) -> Result<EventWatch> {
        let mut rpc = self.rpc().await?;
        let snapshot = rpc.call("events.subscribe", json!({})).await??;
        let snapshot: Snapshot = serde_json::from_value(snapshot)?;
        let mut watch = EventWatch {
            rpc,
            tunnels: BTreeMap::new(),
            log: self.log().clone(),
        };
        watch.replace_all(snapshot.tunnels);
        Ok(watch)
    }

    /// Waits until the status of the tunnel `name` satisfies `condition`, and returns it.
    ///
    /// # Errors
    /// If it does not within `limit`; the message contains the last status and the log.
    pub async fn wait_for(
        &self,
        name: &str,
        limit: Duration,
        condition: impl Fn(&TunnelStatus) -> bool,
    ) -> Result<TunnelStatus> {
        self.watch().await?.until(name, limit, condition).await
    }

    /// Waits until the tunnel `name` is up, and returns its status.
    ///
    /// # Errors
    /// If it is not up within [`LONG`].
    pub async fn wait_up(&self, name: &str) -> Result<TunnelStatus> {
        self.wait_for(name, LONG, |tunnel| tunnel.state == State::Up)
            .await
    }

    /// The current status of the tunnel `name`.
    ///
    /// # Errors
    /// If the tunnel does not exist.
    pub async fn status(&self, name: &str) -> Result<TunnelStatus> {
        let tunnels = self.call("tunnel.status", json!({"names": [name]})).await?;
        let first = tunnels["tunnels"].get(0).cloned();
        Ok(serde_json::from_value(first.context("no such tunnel")?)?)
    }

    /// Sends SIGTERM and waits until the daemon ends.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.process.wait_exit(limit).await
    }

    /// Waits until the daemon ends by itself.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub async fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait_exit(limit).await
    }

    /// Sends SIGKILL and waits until the daemon ends.
    ///
    /// # Errors
    /// If it still runs after [`LONG`].
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }
}

/// A subscription to a daemon's events, with the status of every tunnel after the last event.
pub struct EventWatch {
    rpc: Rpc,
    tunnels: BTreeMap<String, TunnelStatus>,
    log: Log,
}

impl EventWatch {
    fn replace_all(&mut self, tunnels: Vec<TunnelStatus>) {
        self.tunnels = tunnels
            .into_iter()
            .map(|tunnel| (tunnel.name.clone(), tunnel))
            .collect();
    }

    /// The status of every tunnel after the last received event, by name.
    pub fn tunnels(&self) -> &BTreeMap<String, TunnelStatus> {
        &self.tunnels
    }

    /// Waits for the next event and updates [`Self::tunnels`]. `None` if the daemon has sent `lagged` with a new
    /// snapshot, because this subscriber did not read fast enough.
    ///
    /// # Errors
    /// If no event arrives within `limit`.
    pub async fn next(&mut self, limit: Duration) -> Result<Option<EventBody>> {
        let mut object = self.rpc.next_notification(limit).await?;
        let params = object["params"].take();
        if object["method"] == "lagged" {
            let snapshot: Snapshot = serde_json::from_value(params)?;
            self.replace_all(snapshot.tunnels);
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

    /// Waits until the status of the tunnel `name` satisfies `condition`, and returns it. Every published status
    /// is tested, so a short-lived state is not missed.
    ///
    /// # Errors
    /// If none does within `limit`; the message contains the last status and the log.
    pub async fn until(
        &mut self,
        name: &str,
        limit: Duration,
        condition: impl Fn(&TunnelStatus) -> bool,
    ) -> Result<TunnelStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(tunnel) = self.tunnels.get(name)
                && condition(tunnel)
            {
                return Ok(tunnel.clone());
            }
            // The deadline decides, not the limit of one event: hence twice the limit.
            match timeout_at(deadline, self.next(limit * 2)).await {
                Ok(next) => drop(next?),
                Err(_) => bail!(
                    "the tunnel {name} did not reach the expected status in {limit:?}; it is {:#?}\nthe log:\n{}",
                    self.tunnels.get(name),
                    self.log.text()
                ),
            }
        }
    }

    /// Waits until each of these tunnels has satisfied `condition`, one after another.
    ///
    /// # Errors
    /// If one of them does not before `limit` has passed for all.
    pub async fn until_all(
        &mut self,
        names: &[&str],
        limit: Duration,
        condition: impl Fn(&TunnelStatus) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        for name in names {
            let left = deadline.saturating_duration_since(Instant::now());
            self.until(name, left, &condition).await?;
        }
        Ok(())
    }
}

/// The bound address of the tunnel's first forward of this kind.
///
/// # Errors
/// If the tunnel has no such forward, or it is not bound.
pub fn listen_addr(tunnel: &TunnelStatus, kind: ForwardKind) -> Result<SocketAddr> {
    let mut forwards = tunnel.forwards.iter();
    let forward = forwards.find(|forward| forward.kind == kind);
    parse_listen(forward.context("no such forward")?.listen.as_str())
}

/// The bound address of the tunnel's forward number `index`, counted from 0.
///
/// # Errors
/// If the tunnel has no such forward, or it is not bound.
pub fn listen_addr_at(tunnel: &TunnelStatus, index: usize) -> Result<SocketAddr> {
    let forward = tunnel.forwards.get(index).context("no such forward")?;
    parse_listen(&forward.listen)
}

fn parse_listen(text: &str) -> Result<SocketAddr> {
    // A forward without a bind address is shown as `localhost`; the tests connect over IPv4.
    let addr = text.replace("localhost:", "127.0.0.1:");
    let addr: SocketAddr = addr
        .parse()
        .with_context(|| format!("not an address: {text}"))?;
    if addr.port() == 0 {
        bail!("the forward {text} is not bound yet");
    }
    Ok(addr)
}
