//! `tunneld demo`: an SSH server, a web page behind it and the real daemon, all on this machine and in a temporary
//! home; shows the tunnels coming up, what to try, a cut of the connection and the return.

mod page;
mod sandbox;
mod show;
mod ssh_server;

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{Instant, sleep, timeout};
use tunneld_proto::client::{Client, Notification};
use tunneld_proto::message::{EventBody, Snapshot, Subscribe, method};
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};

use sandbox::World;
use show::{say, table};
use tunneld_platform::signals::{Signal, Signals};

/// Everything must happen within this, or the demo says what did not.
const PATIENCE: Duration = Duration::from_secs(30);

/// Before the first cut, so that a person can follow.
const LOOK_AROUND: Duration = Duration::from_secs(4);

/// What `demo` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// End by itself after the return was shown
    #[arg(long, hide = true)]
    once: bool,
}

/// Runs the demo until Ctrl-C.
///
/// # Errors
/// What did not work, with the daemon's last log lines.
pub async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::install().context("cannot take the signals over")?;
    let mut world = World::make().await?;
    let told = tokio::select! {
        told = story(&mut world, arguments.once) => told,
        () = stop(&mut signals) => {
            say("\nStopping.");
            Ok(())
        }
    };
    let told = told.map_err(|error| match world.log_tail() {
        tail if tail.is_empty() => error,
        tail => error.context(format!(
            "the demo did not work; the daemon's last words:\n{tail}"
        )),
    });
    world.end().await;
    told.map(|()| ExitCode::SUCCESS)
}

async fn stop(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

async fn story(world: &mut World, once: bool) -> anyhow::Result<()> {
    say(&format!(
        "An SSH server at {}, a web page behind it, and tunneld with this configuration:\n\n{}",
        world.server.address(),
        show::indented(&world.config)
    ));
    let mut watch = Watch::begin(world).await?;
    say("The tunnel comes up:");
    let status = watch.until_up(None).await?;
    say(&format!("\n{}", table(&status)));

    let ways = Ways::of(&status)?;
    ways.try_all()
        .await
        .context("a way that is about to be shown does not work")?;
    say(&format!(
        "To try in another terminal:\n\n{}",
        ways.told(world)
    ));
    let mut pause = if once { Duration::ZERO } else { LOOK_AROUND };
    loop {
        // Time to read, not to wait for anything.
        sleep(std::mem::take(&mut pause)).await;
        say("Now the SSH connection is cut. A connection made meanwhile is held, not refused:");
        let (cut, since) = (Instant::now(), jiff::Timestamp::now());
        world.server.cut();
        let (held, status) = tokio::join!(page::get(ways.local), watch.until_up(Some(since)));
        held.context("a connection made while the session was away failed")?;
        let status = status?;
        ways.try_all().await.context("after the return")?;
        say(&format!(
            "\nBack after {} ms; the held connection got its page, and all three ways work again.\n\n{}",
            cut.elapsed().as_millis(),
            table(&status)
        ));
        if once {
            return Ok(());
        }
        again().await;
    }
}

/// Waits for the wish to see it again; without a terminal, for ever.
async fn again() {
    if !std::io::stdin().is_terminal() {
        say("Ctrl-C ends the demo.");
        return std::future::pending().await;
    }
    say("Enter cuts again, Ctrl-C ends the demo.");
    let mut line = String::new();
    match BufReader::new(tokio::io::stdin())
        .read_line(&mut line)
        .await
    {
        Ok(read) if read > 0 => {}
        _ => std::future::pending().await,
    }
}

/// The daemon's own word on how the tunnel stands.
struct Watch {
    client: Client,
    begun: Instant,
    last: TunnelStatus,
}

impl Watch {
    async fn begin(world: &mut World) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let mut client = world.connect().await?;
        let subscribed: Snapshot = client
            .call(method::SUBSCRIBE, &Subscribe::default())
            .await?;
        let mut tunnels = subscribed.tunnels.into_iter();
        let last = tunnels
            .next()
            .context("the daemon has no tunnel: its configuration was refused")?;
        Ok(Self {
            client,
            begun,
            last,
        })
    }

    /// Shows each change until the tunnel is up, with a session made after `since` where that is given.
    async fn until_up(&mut self, since: Option<jiff::Timestamp>) -> anyhow::Result<TunnelStatus> {
        let reached = timeout(PATIENCE, async {
            loop {
                let session = self.last.session.as_ref().map(|session| session.since);
                let fresh =
                    since.is_none_or(|since| session.is_some_and(|session| session >= since));
                if self.last.state == State::Up && fresh {
                    return Ok(self.last.clone());
                }
                self.next().await?;
            }
        });
        let Ok(reached) = reached.await else {
            bail!(
                "the tunnel is {} after {PATIENCE:?}",
                self.last.state.as_str()
            );
        };
        reached
    }

    async fn next(&mut self) -> anyhow::Result<()> {
        let tunnel = match self.client.notification().await? {
            Some(Notification::Event(event)) => match event.body {
                EventBody::Tunnel { tunnel } => *tunnel,
                _ => return Ok(()),
            },
            Some(Notification::Lagged(snapshot)) => {
                let mut tunnels = snapshot.tunnels.into_iter();
                tunnels
                    .next()
                    .context("the daemon has no tunnel any more")?
            }
            Some(_) => return Ok(()),
            None => bail!("the daemon has ended"),
        };
        let (before, now) = (show::state(&self.last), show::state(&tunnel));
        let now = (before != now).then_some(now);
        for line in show::loss(&self.last, &tunnel).into_iter().chain(now) {
            say(&format!(
                "  {:>7.3} s  {line}",
                self.begun.elapsed().as_secs_f64()
            ));
        }
        self.last = tunnel;
        Ok(())
    }
}

/// The three ways through the tunnel.
struct Ways {
    local: SocketAddr,
    remote: SocketAddr,
    dynamic: SocketAddr,
}

impl Ways {
    fn of(status: &TunnelStatus) -> anyhow::Result<Self> {
        let find = |kind: ForwardKind| {
            let forward = status.forwards.iter().find(|forward| forward.kind == kind);
            let listen = &forward
                .with_context(|| format!("no {} forward", kind.as_str()))?
                .listen;
            let (_, port) = listen
                .rsplit_once(':')
                .context("a forward without a port")?;
            let port: u16 = port
                .parse()
                .with_context(|| format!("the port of {listen}"))?;
            ensure!(port != 0, "the {} forward tells no port", kind.as_str());
            Ok(SocketAddr::from(([127, 0, 0, 1], port)))
        };
        Ok(Self {
            local: find(ForwardKind::Local)?,
            remote: find(ForwardKind::Remote)?,
            dynamic: find(ForwardKind::Dynamic)?,
        })
    }

    async fn try_all(&self) -> anyhow::Result<()> {
        page::get(self.local)
            .await
            .context("through the local forward")?;
        page::get(self.remote)
            .await
            .context("through the remote forward")?;
        let through = page::get_by_socks(self.dynamic, ssh_server::FAR_HOST, 80);
        through.await.context("through the dynamic forward")
    }

    fn told(&self, world: &World) -> String {
        let Self {
            local,
            remote,
            dynamic,
        } = self;
        let tunnelctl = world.tunnelctl();
        format!(
            "  curl http://{local}/\n  \
             curl http://{remote}/\n  \
             curl --socks5-hostname {dynamic} http://{host}/\n  \
             {tunnelctl} status\n",
            host = ssh_server::FAR_HOST,
        )
    }
}
