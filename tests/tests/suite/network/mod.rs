//! Faults of the network itself: links that go, packets that are lost, NATs that forget, names that lead nowhere.
//! Each test has two hosts of its own, and a neighbour tunnel that must notice nothing.

mod dns;
mod nat;
mod outages;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunneld_proto::status::{State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen_at};
use tunneld_tests::home::Home;
use tunneld_tests::payload;
use tunneld_tests::sshd::{Setup, Sshd};
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::two_hosts::{FAR, Net};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{secs, session_since, settled_files, unix};

/// A dead peer is noticed within three seconds.
const SHORT: &str = "server_alive_interval = \"1s\"\nserver_alive_count_max = 3\n";
/// A dead peer is noticed within ten minutes: whatever notices it sooner is something else.
const NEVER: &str = "server_alive_interval = \"5m\"\nserver_alive_count_max = 2\n";

/// A daemon on the near host with a tunnel `t` to the far one, and a tunnel `n` to a server beside it. Both lead
/// Unix sockets to an echo, so that nobody else has to be on either host.
struct Field {
    net: Net,
    home: Home,
    server: Sshd,
    daemon: Daemon,
    files: usize,
    neighbour: Neighbour,
    _beside: Sshd,
    _target: Target,
}

impl Field {
    /// `t` with these further lines, up; none where the user is not root.
    async fn up(lines: &str) -> Result<Option<(Self, TunnelStatus)>> {
        Self::with(lines, &[], |_| Ok(Vec::new())).await
    }

    /// The same, with lines for the far server, and words before the daemon's command.
    async fn with(
        lines: &str,
        server_lines: &[&str],
        before: impl FnOnce(&Home) -> Result<Vec<String>>,
    ) -> Result<Option<(Self, TunnelStatus)>> {
        let Some(net) = Net::new().await? else {
            return Ok(None);
        };
        let server = Sshd::with(Setup {
            lines: server_lines.iter().map(|line| (*line).to_owned()).collect(),
            before: net.on_far(),
            ip: FAR.to_owned(),
            ..Setup::default()
        })
        .await?;
        let beside = Sshd::with(Setup {
            before: net.on_near(),
            ..Setup::default()
        })
        .await?;
        let home = Home::new()?;
        let target = Target::unix(&home.path("target"), Manner::Echo)?;
        let forward = |name: &str| {
            let (at, to) = (home.path(format!("{name}.sock")), home.path("target"));
            let (at, to) = (at.display(), to.display());
            format!("local_forward = [\"{at} {to}\", \"0 {to}\"]\n")
        };
        let text = format!(
            "{}{lines}{}{}{}",
            server.tunnel("t")?,
            forward("t"),
            beside.tunnel("n")?,
            forward("n")
        );
        home.write("t.toml", &text)?;
        let words = [net.on_near(), before(&home)?].concat();
        let daemon = Daemon::launch(&home, home.command_after(&words, "tunneld")?).await?;
        let before = daemon.wait_up("n").await?;
        let neighbour = Neighbour::start(&home, before).await?;
        let tunnel = daemon.wait_up("t").await?;
        let mut field = Self {
            files: 0,
            net,
            home,
            server,
            daemon,
            neighbour,
            _beside: beside,
            _target: target,
        };
        field.echo().await?;
        field.files = settled_files(field.daemon.process().pid()).await?;
        Ok(Some((field, tunnel)))
    }

    /// A connection through `t`.
    async fn connect(&self) -> Result<tokio::net::UnixStream> {
        unix(&self.home.path("t.sock")).await
    }

    /// A connection by TCP through `t`, made on the near host.
    fn connect_tcp(&self, tunnel: &TunnelStatus) -> Result<TcpStream> {
        let at = listen_at(tunnel, 1)?;
        let stream = self
            .net
            .near_socket(move || std::net::TcpStream::connect(at))?;
        stream.set_nonblocking(true)?;
        Ok(TcpStream::from_std(stream)?)
    }

    /// Proves that `t` carries bytes.
    async fn echo(&self) -> Result<()> {
        let mut stream = self.connect().await?;
        within(
            LONG,
            "an echo",
            payload::ping(&mut stream, b"is anybody there"),
        )
        .await?
    }

    /// The port of the near host that the session of `t` comes from.
    async fn port(&self) -> Result<u16> {
        let line = format!("ss -Htn state established dst {FAR}");
        let found = self.net.near(&line).await?;
        let from = found.split_whitespace().nth(2).context("no connection")?;
        Ok(from.rsplit(':').next().unwrap_or_default().parse()?)
    }

    /// Waits until the session of `t` is lost; returns how long that took, and the failure's kind.
    async fn lost(&self, limit: Duration) -> Result<(Duration, String)> {
        let began = Instant::now();
        let lost = |tunnel: &TunnelStatus| tunnel.state != State::Up;
        let tunnel = self.daemon.wait_for("t", limit, lost).await?;
        let kind = tunnel.last_error.context("an error")?.kind.to_string();
        Ok((began.elapsed(), kind))
    }

    /// Proves that `t` stands in the session that stood at `before`, and carries bytes.
    async fn kept(&self, before: &TunnelStatus) -> Result<()> {
        let tunnel = self.daemon.wait_up("t").await?;
        ensure!(
            session_since(&tunnel) == session_since(before),
            "a new session: {tunnel:#?}"
        );
        self.echo().await
    }

    /// Proves that `t` is back within `limit` and carries bytes, and all that every fault must leave as it was.
    async fn back(&self, before: &TunnelStatus, limit: Duration) -> Result<()> {
        let new = crate::fixture::renewed(before);
        self.daemon.wait_for("t", limit, new).await?;
        self.echo().await?;
        self.unharmed().await
    }

    /// Proves that the neighbour noticed nothing and that no file descriptor is left behind.
    async fn unharmed(&self) -> Result<()> {
        self.neighbour.unharmed()?;
        let now = self.daemon.status("n").await?;
        ensure!(
            session_since(&now) == session_since(&self.neighbour.before),
            "{now:#?}"
        );
        let returned = async {
            loop {
                let files = settled_files(self.daemon.process().pid()).await?;
                if files <= self.files {
                    return anyhow::Ok(());
                }
            }
        };
        within(LONG, &format!("{} open files again", self.files), returned).await?
    }
}

/// Somebody who speaks through the tunnel `n` all the time.
struct Neighbour {
    before: TunnelStatus,
    worst: watch::Receiver<Duration>,
    _task: JoinSet<()>,
}

impl Neighbour {
    async fn start(home: &Home, before: TunnelStatus) -> Result<Self> {
        let mut stream = unix(&home.path("n.sock")).await?;
        let (gap, worst) = watch::channel(Duration::ZERO);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let began = Instant::now();
                if payload::ping(&mut stream, b"undisturbed").await.is_err() {
                    return;
                }
                gap.send_if_modified(|worst| {
                    let grown = began.elapsed() > *worst;
                    *worst = began.elapsed().max(*worst);
                    grown
                });
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(Self {
            before,
            worst,
            _task: task,
        })
    }

    /// The bound is a busy machine's.
    fn unharmed(&self) -> Result<()> {
        ensure!(
            self.worst.has_changed().is_ok(),
            "the neighbour's connection broke"
        );
        let worst = *self.worst.borrow();
        ensure!(worst < secs(2), "the neighbour waited {worst:?}");
        Ok(())
    }
}
