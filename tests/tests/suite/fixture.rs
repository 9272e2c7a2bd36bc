//! The set-up that most tests begin with: one server, one home, one daemon and the tunnel `t`, and small conditions on
//! a tunnel's status.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};
use tunneld_proto::message::Prompts;
use tunneld_proto::status::{ForwardKind, ForwardStatus, Prompt, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, EventWatch};
use tunneld_tests::faulty_link::FaultyLink;
use tunneld_tests::home::Home;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

/// A daemon with the tunnel `t` and the server that it connects to.
pub(crate) struct Fixture {
    pub(crate) daemon: Daemon,
    pub(crate) home: Home,
    pub(crate) server: Sshd,
}

impl Fixture {
    /// Starts a default server and a daemon whose tunnel `t` has these additional lines; returns when `t` is up.
    pub(crate) async fn up(lines: &str) -> Result<(Self, TunnelStatus)> {
        Self::up_on(Sshd::start().await?, lines).await
    }

    /// Same as [`Self::up`], with this server.
    pub(crate) async fn up_on(server: Sshd, lines: &str) -> Result<(Self, TunnelStatus)> {
        let fixture = Self::start(server, lines).await?;
        let tunnel = fixture.daemon.wait_up("t").await?;
        Ok((fixture, tunnel))
    }

    /// Same as [`Self::up_on`], without waiting until `t` is up.
    pub(crate) async fn start(server: Sshd, lines: &str) -> Result<Self> {
        let toml = format!("{}{lines}\n", server.tunnel_toml("t")?);
        let (home, daemon) = start_daemon(&toml).await?;
        Ok(Self {
            daemon,
            home,
            server,
        })
    }

    /// Same as [`Self::up`], with a faulty link between the daemon and the server.
    pub(crate) async fn up_over_link(lines: &str) -> Result<(Self, FaultyLink, TunnelStatus)> {
        let server = Sshd::start().await?;
        let link = FaultyLink::to(server.addr()).await?;
        let toml = format!("{}{lines}\n", server.tunnel_toml_at("t", link.port())?);
        let (home, daemon) = start_daemon(&toml).await?;
        let tunnel = daemon.wait_up("t").await?;
        let fixture = Self {
            daemon,
            home,
            server,
        };
        Ok((fixture, link, tunnel))
    }

    /// Replaces the configuration file of `t`; these lines take the place of the former additional lines.
    pub(crate) fn rewrite_tunnel(&self, lines: &str) -> Result<()> {
        let text = format!("{}{lines}\n", self.server.tunnel_toml("t")?);
        self.home.write("t.toml", &text)?;
        Ok(())
    }
}

/// Starts a daemon with these tunnels and the lab's defaults.
pub(crate) async fn start_daemon(tunnels: &str) -> Result<(Home, Daemon)> {
    let home = Home::new()?;
    home.write("t.toml", tunnels)?;
    let daemon = Daemon::start(&home).await?;
    Ok((home, daemon))
}

/// Starts a daemon whose tunnel `t` stays stopped until a test starts it, and then cannot connect: nothing listens on
/// port 1.
pub(crate) async fn start_with_stopped_tunnel() -> Result<(Home, Daemon)> {
    start_daemon("[tunnel.t]\nhost = \"u@127.0.0.1:1\"\nautostart = false\n").await
}

/// The line that forwards a free local port to `target`.
pub(crate) fn local_forward_to(target: &Target) -> String {
    format!("local_forward = \"0 127.0.0.1:{}\"", target.port())
}

/// The table of a tunnel without the lines that set `key`.
pub(crate) fn without_key(tunnel_toml: &str, key: &str) -> String {
    let lines = tunnel_toml.lines().filter(|line| !line.starts_with(key));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The table of a tunnel with another known_hosts file, and `strict_host_key_checking` set to `checking`.
pub(crate) fn with_known_hosts(tunnel_toml: &str, known_hosts: &Path, checking: &str) -> String {
    let rest = without_key(tunnel_toml, "user_known_hosts_file");
    format!(
        "{rest}user_known_hosts_file = \"{}\"\nstrict_host_key_checking = \"{checking}\"\n",
        known_hosts.display()
    )
}

/// Whether the tunnel is up.
pub(crate) fn is_up(tunnel: &TunnelStatus) -> bool {
    tunnel.state == State::Up
}

/// Whether the tunnel waits for its next connection attempt.
pub(crate) fn is_waiting(tunnel: &TunnelStatus) -> bool {
    tunnel.state == State::Waiting
}

/// Whether the tunnel has failed, and is not retried by itself.
pub(crate) fn is_failed(tunnel: &TunnelStatus) -> bool {
    tunnel.state == State::Failed
}

/// Whether the tunnel shows an error.
pub(crate) fn has_error(tunnel: &TunnelStatus) -> bool {
    tunnel.last_error.is_some()
}

/// Whether the tunnel has an open prompt.
pub(crate) fn has_prompt(tunnel: &TunnelStatus) -> bool {
    tunnel.prompt.is_some()
}

/// Whether the tunnel has an open prompt that is not `old`.
pub(crate) fn has_prompt_after(old: &Prompt) -> impl Fn(&TunnelStatus) -> bool {
    let old = old.id;
    move |tunnel| {
        tunnel
            .prompt
            .as_ref()
            .is_some_and(|prompt| prompt.id != old)
    }
}

/// Whether the tunnel is up in a later session than at `before`, counted as a reconnect.
pub(crate) fn reconnected_since(before: &TunnelStatus) -> impl Fn(&TunnelStatus) -> bool {
    let (since, reconnects) = (session_since(before), before.reconnects);
    move |tunnel| is_up(tunnel) && session_since(tunnel) != since && tunnel.reconnects > reconnects
}

/// Whether the tunnel is up in another session than at `before`; a restart by the user counts as well.
pub(crate) fn in_new_session(before: &TunnelStatus) -> impl Fn(&TunnelStatus) -> bool {
    let since = session_since(before);
    move |tunnel| is_up(tunnel) && session_since(tunnel) != since
}

/// The time at which the tunnel's session was established; `None` without a session. It identifies the session.
pub(crate) fn session_since(tunnel: &TunnelStatus) -> Option<jiff::Timestamp> {
    tunnel.session.as_ref().map(|session| session.since)
}

/// The kind of the tunnel's last error.
pub(crate) fn error_kind(tunnel: &TunnelStatus) -> Option<&str> {
    tunnel.last_error.as_ref().map(|error| error.kind.as_str())
}

/// The kind of the error in a JSON-RPC reply; `none` if it is not an error.
pub(crate) fn error_kind_of_reply(reply: &Value) -> &str {
    reply["error"]["data"]["kind"].as_str().unwrap_or("none")
}

/// The tunnel's first forward of this kind.
pub(crate) fn forward_of(tunnel: &TunnelStatus, kind: ForwardKind) -> Option<&ForwardStatus> {
    tunnel.forwards.iter().find(|forward| forward.kind == kind)
}

/// Waits until the tunnel `name` needs input, and returns its prompt.
pub(crate) async fn wait_prompt(watch: &mut EventWatch, name: &str) -> Result<Prompt> {
    let needs_input = |tunnel: &TunnelStatus| tunnel.state == State::NeedsInput;
    let tunnel = watch.until(name, LONG, needs_input).await?;
    tunnel.prompt.context("needs_input without a prompt")
}

/// Waits until the tunnel `name` has another prompt than `before`, and returns it.
pub(crate) async fn wait_next_prompt(
    watch: &mut EventWatch,
    name: &str,
    before: &Prompt,
) -> Result<Prompt> {
    let tunnel = watch.until(name, LONG, has_prompt_after(before)).await?;
    tunnel.prompt.context("no prompt")
}

/// Answers a prompt, with one answer per field.
pub(crate) async fn answer_prompt(
    daemon: &Daemon,
    prompt: &Prompt,
    answers: &[&str],
) -> Result<()> {
    let params = json!({"id": prompt.id, "answers": answers});
    daemon.call("prompt.answer", params).await.map(drop)
}

/// The open prompts of all tunnels.
pub(crate) async fn open_prompts(daemon: &Daemon) -> Result<Vec<Prompt>> {
    let list: Prompts = serde_json::from_value(daemon.call("prompt.list", json!({})).await?)?;
    Ok(list.prompts)
}

/// Connects to a TCP listener.
pub(crate) async fn tcp(addr: SocketAddr) -> Result<TcpStream> {
    Ok(within(LONG, "a TCP connection", TcpStream::connect(addr)).await??)
}

/// Connects to a Unix listener.
pub(crate) async fn unix(path: &Path) -> Result<UnixStream> {
    Ok(within(LONG, "a Unix connection", UnixStream::connect(path)).await??)
}

/// Whether a read failed by a reset; false for an end of file.
pub(crate) fn was_reset<T: std::fmt::Debug>(read: std::io::Result<T>) -> bool {
    matches!(read, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Short for [`Duration::from_secs`].
pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The number of open file descriptors of a process, once it no longer falls: a closed control connection takes the
/// daemon a moment.
pub(crate) async fn stable_open_files(pid: u32) -> Result<usize> {
    let mut last = usize::MAX;
    loop {
        let now = tunneld_tests::process::open_file_count(pid)?;
        if now >= last {
            return Ok(last);
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
