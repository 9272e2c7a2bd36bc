//! The rows of the matrix that carry bytes: every kind of forward, rekeying under load, a hundred megabytes each way.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tunneld_proto::status::{ForwardKind, ForwardState, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::home::Home;
use tunneld_tests::payload::{MIB, exchange, random, same};
use tunneld_tests::ports;
use tunneld_tests::socks::{self, Destination};
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::{LONG, within};

use super::Peer;
use crate::fixture::{tcp, unix, was_reset};

/// A tunnel with a forward of every kind, with TCP and Unix sockets on either side.
struct AllForwards {
    daemon: Daemon,
    _home: Home,
    target: Target,
    _unix_target: Target,
    /// The folder of the Unix sockets `target`, `local` and `remote`.
    folder: TempDir,
    /// The ports of -L to TCP, -L to Unix, -R to TCP, -R to Unix, -R SOCKS and -D.
    ports: [u16; 6],
}

impl AllForwards {
    async fn start(server: &Peer, lines: &str) -> Result<(Self, TunnelStatus)> {
        let folder = tempfile::tempdir()?;
        let path = |name| folder.path().join(name);
        let target = Target::start(TargetBehavior::EchoAtEof).await?;
        let unix_target = Target::unix(&path("target"), TargetBehavior::EchoAtEof)?;
        let (tcp_to, unix_to) = (target.port(), path("target"));
        let mut ports = [0; 6];
        for port in &mut ports {
            *port = ports::free()?;
        }
        let [l, l_unix, r, r_unix, r_socks, d] = ports;
        let text = format!(
            "{}{lines}local_forward = [\"{l} 127.0.0.1:{tcp_to}\", \"{} 127.0.0.1:{tcp_to}\", \"{l_unix} {}\"]\n\
             remote_forward = [\"{r} 127.0.0.1:{tcp_to}\", \"{r_unix} {}\", \"{r_socks}\", \"{} 127.0.0.1:{tcp_to}\"]\n\
             dynamic_forward = {d}\n",
            server.tunnel_toml("t")?,
            path("local").display(),
            unix_to.display(),
            unix_to.display(),
            path("remote").display(),
        );
        let home = Home::new()?;
        home.write("t.toml", &text)?;
        let daemon = Daemon::start(&home).await?;
        // Degraded if the server does not support Unix sockets.
        let settled = |tunnel: &TunnelStatus| matches!(tunnel.state, State::Up | State::Degraded);
        let tunnel = daemon.wait_for("t", LONG, settled).await?;
        let forwards = Self {
            daemon,
            _home: home,
            target,
            _unix_target: unix_target,
            folder,
            ports,
        };
        Ok((forwards, tunnel))
    }

    /// The address of the port number `index` in [`Self::ports`].
    fn addr(&self, index: usize) -> SocketAddr {
        ports::local(self.ports.get(index).copied().unwrap_or_default())
    }

    /// Connects to the target through a SOCKS proxy.
    async fn connect_socks(&self, proxy: SocketAddr) -> Result<TcpStream> {
        let dest = Destination::Ip(self.target.addr().ip());
        let reply = socks::connect_v5(proxy, &dest, self.target.port()).await?;
        reply.map_err(|code| anyhow::anyhow!("the proxy replies with code {code}"))
    }

    /// Sends `data` through each forward and back; `server_unix` includes those with a Unix socket on the server.
    async fn exchange_all(&self, data: &[u8], server_unix: bool) -> Result<()> {
        let folder = self.folder.path();
        check_cell("-L TCP to TCP", tcp(self.addr(0)), data).await?;
        check_cell("-L Unix to TCP", unix(&folder.join("local")), data).await?;
        check_cell("-R TCP to TCP", tcp(self.addr(2)), data).await?;
        check_cell("-R TCP to Unix", tcp(self.addr(3)), data).await?;
        check_cell("-R SOCKS", self.connect_socks(self.addr(4)), data).await?;
        check_cell("-D", self.connect_socks(self.addr(5)), data).await?;
        if server_unix {
            check_cell("-L TCP to Unix", tcp(self.addr(1)), data).await?;
            check_cell("-R Unix to TCP", unix(&folder.join("remote")), data).await?;
        }
        Ok(())
    }

    /// Checks that the tunnel still has its first session.
    async fn check_no_reconnect(&self) -> Result<()> {
        let tunnel = self.daemon.status("t").await?;
        assert!(tunnel.session.is_some(), "{tunnel:#?}");
        assert_eq!(tunnel.reconnects, 0, "{tunnel:#?}");
        Ok(())
    }
}

/// Sends `data` over `stream` and back; an error names the cell.
async fn check_cell<S: AsyncRead + AsyncWrite>(
    name: &str,
    stream: impl Future<Output = Result<S>>,
    data: &[u8],
) -> Result<()> {
    let exchanged = async { same(data, &exchange(stream.await?, data).await?) };
    exchanged.await.with_context(|| name.to_owned())
}

/// The row of forwards: 2 MiB there and back through each.
pub(super) async fn check_every_forward(server: &Peer) -> Result<()> {
    let (forwards, tunnel) = AllForwards::start(server, "").await?;
    let remote_socket = forwards.folder.path().join("remote").display().to_string();
    let server_unix = server.supports_unix_sockets();
    for forward in &tunnel.forwards {
        let expected = match forward.listen.ends_with(&remote_socket) && !server_unix {
            true => ForwardState::Failed,
            false => ForwardState::Listening,
        };
        assert_eq!(forward.state, expected, "{forward:?}");
    }
    let data = random(95, 2 * MIB);
    forwards.exchange_all(&data, server_unix).await?;
    if !server_unix {
        let read = async { TcpStream::connect(forwards.addr(1)).await?.read_u8().await };
        let read = within(LONG, "-L TCP to Unix to be refused", read).await?;
        assert!(was_reset(read), "-L TCP to Unix is not refused");
    }
    forwards.check_no_reconnect().await
}

/// The rows of rekeying: 2 MiB there and back through each forward, twice at once, with a rekey after each megabyte.
pub(super) async fn check_rekeying(server: &Peer, lines: &str) -> Result<()> {
    let (forwards, _) = AllForwards::start(server, lines).await?;
    let server_unix = server.supports_unix_sockets();
    let (one, two) = (random(96, 2 * MIB), random(97, 2 * MIB));
    tokio::try_join!(
        forwards.exchange_all(&one, server_unix),
        forwards.exchange_all(&two, server_unix)
    )?;
    forwards.check_no_reconnect().await?;
    // At least 28 MiB went each way. Fewer rekeys than megabytes: asyncssh does not count what it sends during one.
    if let Some(count) = server.key_exchanges()? {
        assert!(count > 5, "only {count} key exchanges");
    }
    Ok(())
}

/// The row of bulk data: 100 MB each way.
pub(super) async fn check_bulk(server: &Peer) -> Result<()> {
    // Generated before the start: meanwhile a server in this process would answer no keepalive.
    let data = random(93, 100_000_000);
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let home = Home::new()?;
    let text = format!(
        "{}local_forward = \"0 127.0.0.1:{}\"\n",
        server.tunnel_toml("t")?,
        target.port()
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    let local = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    same(&data, &exchange(local, &data).await?)?;
    let tunnel = daemon.wait_up("t").await?;
    assert_eq!(tunnel.reconnects, 0, "{tunnel:#?}");
    Ok(())
}
