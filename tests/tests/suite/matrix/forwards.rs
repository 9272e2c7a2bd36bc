//! The rows of bytes: every forward, new keys under traffic, a hundred megabytes each way.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tunneld_proto::status::{ForwardKind, ForwardState, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::home::Home;
use tunneld_tests::payload::{MIB, exchange, random, same};
use tunneld_tests::ports;
use tunneld_tests::socks::{self, Dest};
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::wait::{LONG, within};

use super::Peer;
use crate::fixture::{tcp, unix, was_reset};

/// A tunnel with a forward of each kind, TCP and Unix on either side.
struct Every {
    daemon: Daemon,
    _home: Home,
    target: Target,
    _unix_target: Target,
    folder: TempDir,
    port: [u16; 6],
}

impl Every {
    async fn up(server: &Peer, lines: &str) -> Result<(Self, TunnelStatus)> {
        let folder = tempfile::tempdir()?;
        let at = |name| folder.path().join(name);
        let target = Target::start(Manner::Collect).await?;
        let unix_target = Target::unix(&at("target"), Manner::Collect)?;
        let (tcp_to, unix_to) = (target.port(), at("target"));
        let mut port = [0; 6];
        for port in &mut port {
            *port = ports::free()?;
        }
        let [l, l_unix, r, r_unix, r_socks, d] = port;
        let text = format!(
            "{}{lines}local_forward = [\"{l} 127.0.0.1:{tcp_to}\", \"{} 127.0.0.1:{tcp_to}\", \"{l_unix} {}\"]\n\
             remote_forward = [\"{r} 127.0.0.1:{tcp_to}\", \"{r_unix} {}\", \"{r_socks}\", \"{} 127.0.0.1:{tcp_to}\"]\n\
             dynamic_forward = {d}\n",
            server.tunnel("t")?,
            at("near").display(),
            unix_to.display(),
            unix_to.display(),
            at("far").display(),
        );
        let home = Home::new()?;
        home.write("t.toml", &text)?;
        let daemon = Daemon::start(&home).await?;
        let settled = |tunnel: &TunnelStatus| matches!(tunnel.state, State::Up | State::Degraded);
        let tunnel = daemon.wait_for("t", LONG, settled).await?;
        let every = Self {
            daemon,
            _home: home,
            target,
            _unix_target: unix_target,
            folder,
            port,
        };
        Ok((every, tunnel))
    }

    fn at(&self, index: usize) -> SocketAddr {
        ports::local(self.port.get(index).copied().unwrap_or_default())
    }

    /// A stream to the target through the SOCKS proxy at `proxy`.
    async fn through(&self, proxy: SocketAddr) -> Result<TcpStream> {
        let dest = Dest::Ip(self.target.addr().ip());
        let reply = socks::v5(proxy, &dest, self.target.port()).await?;
        reply.map_err(|code| anyhow::anyhow!("the proxy says {code}"))
    }

    /// Sends `data` through each forward and back.
    async fn carry(&self, data: &[u8], far_unix: bool) -> Result<()> {
        let folder = self.folder.path();
        cell("-L TCP to TCP", tcp(self.at(0)), data).await?;
        cell("-L Unix to TCP", unix(&folder.join("near")), data).await?;
        cell("-R TCP to TCP", tcp(self.at(2)), data).await?;
        cell("-R TCP to Unix", tcp(self.at(3)), data).await?;
        cell("-R SOCKS", self.through(self.at(4)), data).await?;
        cell("-D", self.through(self.at(5)), data).await?;
        if far_unix {
            cell("-L TCP to Unix", tcp(self.at(1)), data).await?;
            cell("-R Unix to TCP", unix(&folder.join("far")), data).await?;
        }
        Ok(())
    }

    /// Proves that the first session is still the one that stands.
    async fn never_renewed(&self) -> Result<()> {
        let tunnel = self.daemon.status("t").await?;
        assert!(tunnel.session.is_some(), "{tunnel:#?}");
        assert_eq!(tunnel.reconnects, 0, "{tunnel:#?}");
        Ok(())
    }
}

async fn cell<S: AsyncRead + AsyncWrite>(
    name: &str,
    stream: impl Future<Output = Result<S>>,
    data: &[u8],
) -> Result<()> {
    let carried = async { same(data, &exchange(stream.await?, data).await?) };
    carried.await.with_context(|| name.to_owned())
}

/// The row of forwards: 2 MiB there and back through each.
pub(super) async fn every(server: &Peer) -> Result<()> {
    let (every, tunnel) = Every::up(server, "").await?;
    let far = every.folder.path().join("far").display().to_string();
    for forward in &tunnel.forwards {
        let wanted = match forward.listen.ends_with(&far) && !server.knows_unix_sockets() {
            true => ForwardState::Failed,
            false => ForwardState::Listening,
        };
        assert_eq!(forward.state, wanted, "{forward:?}");
    }
    let data = random(95, 2 * MIB);
    every.carry(&data, server.knows_unix_sockets()).await?;
    if !server.knows_unix_sockets() {
        let refused = async { TcpStream::connect(every.at(1)).await?.read_u8().await };
        let refused = within(LONG, "-L TCP to Unix refused", refused).await?;
        assert!(was_reset(refused), "-L TCP to Unix is refused");
    }
    every.never_renewed().await?;
    Ok(())
}

/// The rows of new keys: 2 MiB there and back through each forward at once, new keys after each megabyte.
pub(super) async fn under_new_keys(server: &Peer, lines: &str) -> Result<()> {
    let (every, _) = Every::up(server, lines).await?;
    let far_unix = server.knows_unix_sockets();
    let (one, two) = (random(96, 2 * MIB), random(97, 2 * MIB));
    tokio::try_join!(every.carry(&one, far_unix), every.carry(&two, far_unix))?;
    every.never_renewed().await?;
    // At least 28 MiB went each way; what asyncssh sends in the middle of an exchange counts towards none.
    if let Some(count) = server.key_exchanges()? {
        assert!(count > 5, "only {count} key exchanges");
    }
    Ok(())
}

/// The row of bulk.
pub(super) async fn whole(server: &Peer) -> Result<()> {
    // Made beforehand: a server of this process answers nobody meanwhile.
    let data = random(93, 100_000_000);
    let target = Target::start(Manner::Collect).await?;
    let home = Home::new()?;
    let text = format!(
        "{}local_forward = \"0 127.0.0.1:{}\"\n",
        server.tunnel("t")?,
        target.port()
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    let local = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    same(&data, &exchange(local, &data).await?)?;
    let tunnel = daemon.wait_up("t").await?;
    assert_eq!(tunnel.reconnects, 0, "{tunnel:#?}");
    Ok(())
}
