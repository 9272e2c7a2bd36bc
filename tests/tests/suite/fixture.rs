//! What most tests begin with: one server, one home, one daemon, one tunnel `t` that is up.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::net::{TcpStream, UnixStream};
use tunneld_proto::status::{Prompt, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, Watch};
use tunneld_tests::faulty_link::Link;
use tunneld_tests::home::Home;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::wait::{LONG, within};

/// A daemon with the tunnel `t`.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) home: Home,
    pub(crate) server: Sshd,
}

impl Scene {
    /// The tunnel `t` with these further lines, straight to a server of the lab's own configuration, up.
    pub(crate) async fn up(lines: &str) -> Result<(Self, TunnelStatus)> {
        Self::on(Sshd::start().await?, lines).await
    }

    /// The same, to this server.
    pub(crate) async fn on(server: Sshd, lines: &str) -> Result<(Self, TunnelStatus)> {
        let scene = Self::begun(server, lines).await?;
        let tunnel = scene.daemon.wait_up("t").await?;
        Ok((scene, tunnel))
    }

    /// The same, without waiting until the tunnel is up.
    pub(crate) async fn begun(server: Sshd, lines: &str) -> Result<Self> {
        let home = Home::new()?;
        home.write("t.toml", &format!("{}{lines}\n", server.tunnel("t")?))?;
        let daemon = Daemon::start(&home).await?;
        Ok(Self {
            daemon,
            home,
            server,
        })
    }

    /// The tunnel `t` through a faulty line, up.
    pub(crate) async fn linked(lines: &str) -> Result<(Self, Link, TunnelStatus)> {
        let server = Sshd::start().await?;
        let link = Link::to(server.addr()).await?;
        let home = Home::new()?;
        let tunnel = server.tunnel_at("t", link.port())?;
        home.write("t.toml", &format!("{tunnel}{lines}\n"))?;
        let daemon = Daemon::start(&home).await?;
        let tunnel = daemon.wait_up("t").await?;
        let scene = Self {
            daemon,
            home,
            server,
        };
        Ok((scene, link, tunnel))
    }

    /// Writes the tunnel's file anew with these further lines.
    pub(crate) fn rewrite(&self, lines: &str) -> Result<()> {
        let text = format!("{}{lines}\n", self.server.tunnel("t")?);
        self.home.write("t.toml", &text)?;
        Ok(())
    }
}

/// A daemon with these tunnels.
pub(crate) async fn home(tunnels: &str) -> Result<(Home, Daemon)> {
    let home = Home::new()?;
    home.write("t.toml", tunnels)?;
    let daemon = Daemon::start(&home).await?;
    Ok((home, daemon))
}

/// Whether the tunnel is up.
pub(crate) fn up(tunnel: &TunnelStatus) -> bool {
    tunnel.state == State::Up
}

/// Waits for the next prompt of the tunnel `name`.
pub(crate) async fn prompt(watch: &mut Watch, name: &str) -> Result<Prompt> {
    let asks = |tunnel: &TunnelStatus| tunnel.state == State::NeedsInput;
    let tunnel = watch.until(name, LONG, asks).await?;
    tunnel.prompt.context("needs_input without a prompt")
}

/// Waits for the prompt of the tunnel `name` that follows this one.
pub(crate) async fn next_prompt(watch: &mut Watch, name: &str, before: &Prompt) -> Result<Prompt> {
    let other = |tunnel: &TunnelStatus| {
        let prompt = tunnel.prompt.as_ref();
        prompt.is_some_and(|prompt| prompt.id != before.id)
    };
    let tunnel = watch.until(name, LONG, other).await?;
    tunnel.prompt.context("a prompt")
}

/// Answers a prompt.
pub(crate) async fn answer(daemon: &Daemon, prompt: &Prompt, answers: &[&str]) -> Result<()> {
    let params = json!({"id": prompt.id, "answers": answers});
    daemon.call("prompt.answer", params).await.map(drop)
}

/// Whether the tunnel's session is not the one that stood at `before`.
pub(crate) fn renewed(before: &TunnelStatus) -> impl Fn(&TunnelStatus) -> bool {
    let (since, reconnects) = (session_since(before), before.reconnects);
    move |tunnel| {
        tunnel.state == State::Up
            && session_since(tunnel) != since
            && tunnel.reconnects > reconnects
    }
}

/// Since when the tunnel's session stands.
pub(crate) fn session_since(tunnel: &TunnelStatus) -> Option<jiff::Timestamp> {
    tunnel.session.as_ref().map(|session| session.since)
}

/// Connects to a TCP listener.
pub(crate) async fn tcp(addr: std::net::SocketAddr) -> Result<TcpStream> {
    Ok(within(LONG, "a TCP connection", TcpStream::connect(addr)).await??)
}

/// Connects to a Unix listener.
pub(crate) async fn unix(path: &std::path::Path) -> Result<UnixStream> {
    Ok(within(LONG, "a Unix connection", UnixStream::connect(path)).await??)
}

/// Whether a read ended by a reset; false for an end in order.
pub(crate) fn was_reset<T: std::fmt::Debug>(read: std::io::Result<T>) -> bool {
    matches!(read, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Seconds.
pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The number of open files once it stands still: the last control connection may be closing.
pub(crate) async fn settled_files(pid: u32) -> Result<usize> {
    let mut last = usize::MAX;
    loop {
        let now = tunneld_tests::process::open_files(pid)?;
        if now >= last {
            return Ok(last);
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
