//! Faults of the network: links that go down, dropped packets, NAT routers that drop their state, failing DNS names.
//! Each test has its own two hosts, and a neighbour tunnel that the fault must not affect. Root is required.

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
use tunneld_tests::daemon::{Daemon, listen_addr_at};
use tunneld_tests::home::Home;
use tunneld_tests::payload;
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::two_hosts::{SERVER_IP, TwoHosts};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{secs, session_since, stable_open_files, unix};

/// Keepalives that notice a dead peer within three seconds.
const SHORT: &str = "server_alive_interval = \"1s\"\nserver_alive_count_max = 3\n";
/// Keepalives that notice a dead peer within ten minutes: what a test notices sooner is noticed in another way.
const NEVER: &str = "server_alive_interval = \"5m\"\nserver_alive_count_max = 2\n";

/// A daemon on the client host with a tunnel `t` to the server host, and a neighbour tunnel `n` to a server on the
/// client host. Both forward Unix sockets to an echo target: a Unix socket is reached from any network namespace.
struct NetworkFixture {
    hosts: TwoHosts,
    home: Home,
    server: Sshd,
    daemon: Daemon,
    /// The daemon's number of open file descriptors before the fault.
    open_files: usize,
    neighbour: NeighbourPing,
    _neighbour_server: Sshd,
    _target: Target,
}

impl NetworkFixture {
    /// Starts everything, with these additional lines of `t`, and returns when both tunnels are up. `None` if the user
    /// is not root and has chosen to skip such tests.
    async fn up(lines: &str) -> Result<Option<(Self, TunnelStatus)>> {
        Self::up_with(lines, &[], |_| Ok(Vec::new())).await
    }

    /// Same as [`Self::up`], with lines of sshd_config for the server of `t`, and a command prefix for the daemon.
    async fn up_with(
        lines: &str,
        server_lines: &[&str],
        daemon_prefix: impl FnOnce(&Home) -> Result<Vec<String>>,
    ) -> Result<Option<(Self, TunnelStatus)>> {
        let Some(hosts) = TwoHosts::new().await? else {
            return Ok(None);
        };
        let server = Sshd::start_with(SshdOptions {
            config_lines: server_lines.iter().map(|line| (*line).to_owned()).collect(),
            command_prefix: hosts.server_prefix(),
            listen_ip: SERVER_IP.to_owned(),
            ..SshdOptions::default()
        })
        .await?;
        let neighbour_server = Sshd::start_with(SshdOptions {
            command_prefix: hosts.client_prefix(),
            ..SshdOptions::default()
        })
        .await?;
        let home = Home::new()?;
        let target = Target::unix(&home.path("target"), TargetBehavior::Echo)?;
        let forward = |name: &str| {
            let (listen, to) = (home.path(format!("{name}.sock")), home.path("target"));
            let (listen, to) = (listen.display(), to.display());
            format!("local_forward = [\"{listen} {to}\", \"0 {to}\"]\n")
        };
        let text = format!(
            "{}{lines}{}{}{}",
            server.tunnel_toml("t")?,
            forward("t"),
            neighbour_server.tunnel_toml("n")?,
            forward("n")
        );
        home.write("t.toml", &text)?;
        let prefix = [hosts.client_prefix(), daemon_prefix(&home)?].concat();
        let command = home.command_with_prefix(&prefix, "tunneld")?;
        let daemon = Daemon::start_with(&home, command).await?;
        let before = daemon.wait_up("n").await?;
        let neighbour = NeighbourPing::start(&home, before).await?;
        let tunnel = daemon.wait_up("t").await?;
        let mut fixture = Self {
            open_files: 0,
            hosts,
            home,
            server,
            daemon,
            neighbour,
            _neighbour_server: neighbour_server,
            _target: target,
        };
        fixture.check_echo().await?;
        fixture.open_files = stable_open_files(fixture.daemon.process().pid()).await?;
        Ok(Some((fixture, tunnel)))
    }

    /// Connects to the Unix listener of `t`.
    async fn connect(&self) -> Result<tokio::net::UnixStream> {
        unix(&self.home.path("t.sock")).await
    }

    /// Connects to the TCP listener of `t`, on the client host.
    fn connect_tcp(&self, tunnel: &TunnelStatus) -> Result<TcpStream> {
        let addr = listen_addr_at(tunnel, 1)?;
        let stream = self
            .hosts
            .client_socket(move || std::net::TcpStream::connect(addr))?;
        stream.set_nonblocking(true)?;
        Ok(TcpStream::from_std(stream)?)
    }

    /// Checks that `t` carries bytes.
    async fn check_echo(&self) -> Result<()> {
        let mut stream = self.connect().await?;
        within(LONG, "an echo", payload::ping(&mut stream, b"a few bytes")).await?
    }

    /// The source port of the TCP connection of `t`, on the client host.
    async fn session_port(&self) -> Result<u16> {
        let line = format!("ss -Htn state established dst {SERVER_IP}");
        let found = self.hosts.run_on_client(&line).await?;
        let from = found.split_whitespace().nth(2).context("no connection")?;
        Ok(from.rsplit(':').next().unwrap_or_default().parse()?)
    }

    /// Waits until the session of `t` is lost. Returns how long that took, and the kind of the failure.
    async fn wait_lost(&self, limit: Duration) -> Result<(Duration, String)> {
        let began = Instant::now();
        let lost = |tunnel: &TunnelStatus| tunnel.state != State::Up;
        let tunnel = self.daemon.wait_for("t", limit, lost).await?;
        let kind = tunnel.last_error.context("an error")?.kind.to_string();
        Ok((began.elapsed(), kind))
    }

    /// Checks that `t` is up in the same session as at `before`, and carries bytes.
    async fn check_same_session(&self, before: &TunnelStatus) -> Result<()> {
        let tunnel = self.daemon.wait_up("t").await?;
        ensure!(
            session_since(&tunnel) == session_since(before),
            "a new session: {tunnel:#?}"
        );
        self.check_echo().await
    }

    /// Checks that `t` is up in a new session within `limit` and carries bytes, and [`Self::check_unaffected`].
    async fn check_reconnected(&self, before: &TunnelStatus, limit: Duration) -> Result<()> {
        let new = crate::fixture::reconnected_since(before);
        self.daemon.wait_for("t", limit, new).await?;
        self.check_echo().await?;
        self.check_unaffected().await
    }

    /// Checks that the neighbour tunnel was not affected, and that no file descriptor has leaked.
    async fn check_unaffected(&self) -> Result<()> {
        self.neighbour.check_undisturbed()?;
        let now = self.daemon.status("n").await?;
        ensure!(
            session_since(&now) == session_since(&self.neighbour.before),
            "{now:#?}"
        );
        let returned = async {
            loop {
                let files = stable_open_files(self.daemon.process().pid()).await?;
                if files <= self.open_files {
                    return anyhow::Ok(());
                }
            }
        };
        let what = format!("at most {} open files", self.open_files);
        within(LONG, &what, returned).await?
    }
}

/// Sends a few bytes through the tunnel `n` and back, all the time, and records the longest round trip.
struct NeighbourPing {
    before: TunnelStatus,
    longest: watch::Receiver<Duration>,
    _task: JoinSet<()>,
}

impl NeighbourPing {
    async fn start(home: &Home, before: TunnelStatus) -> Result<Self> {
        let mut stream = unix(&home.path("n.sock")).await?;
        let (longest_sender, longest) = watch::channel(Duration::ZERO);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let began = Instant::now();
                if payload::ping(&mut stream, b"undisturbed").await.is_err() {
                    return;
                }
                longest_sender.send_modify(|longest| *longest = began.elapsed().max(*longest));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(Self {
            before,
            longest,
            _task: task,
        })
    }

    /// Checks that the connection is still open and that no round trip took two seconds, which allows for a busy
    /// machine.
    fn check_undisturbed(&self) -> Result<()> {
        // The task ends, and with it the channel, when the connection fails.
        ensure!(
            self.longest.has_changed().is_ok(),
            "the neighbour's connection failed"
        );
        let longest = *self.longest.borrow();
        ensure!(longest < secs(2), "the neighbour waited {longest:?}");
        Ok(())
    }
}
