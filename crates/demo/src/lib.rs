//! `tunneld demo`: runs an SSH server, a web page behind it and the real daemon on this machine, in a temporary home.
//!
//! It shows how the tunnel connects, lists commands to try, then cuts the connection and shows the reconnect.

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

use sandbox::Sandbox;
use show::{print, table};
use tunneld_platform::signals::{Signal, Signals};

/// Longest wait for the tunnel to be up; then the demo fails.
const UP_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before the first cut, so that the user can read.
const FIRST_CUT_DELAY: Duration = Duration::from_secs(4);

/// Arguments of `tunneld demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArguments {
    /// Exit after the first reconnect
    #[arg(long, hide = true)]
    once: bool,
}

/// Runs the demo until Ctrl-C.
///
/// # Errors
/// The step that failed, with the last lines of the daemon's log.
pub async fn run(arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::install().context("cannot install the signal handlers")?;
    let mut sandbox = Sandbox::start().await?;
    let outcome = tokio::select! {
        outcome = run_steps(&mut sandbox, arguments.once) => outcome,
        () = wait_for_stop(&mut signals) => {
            print("\nStopping.");
            Ok(())
        }
    };
    let outcome = outcome.map_err(|error| match sandbox.log_tail() {
        tail if tail.is_empty() => error,
        tail => error.context(format!(
            "the demo failed; the last lines of the daemon's log:\n{tail}"
        )),
    });
    sandbox.stop().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn wait_for_stop(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

async fn run_steps(sandbox: &mut Sandbox, once: bool) -> anyhow::Result<()> {
    print(&format!(
        "An SSH server at {}, a web page behind it, and tunneld with this configuration:\n\n{}",
        sandbox.server.address(),
        show::indented(&sandbox.config)
    ));
    let mut watch = StatusWatch::start(sandbox).await?;
    print("The tunnel connects:");
    let status = watch.until_up(None).await?;
    print(&format!("\n{}", table(&status)));

    let forwards = ForwardAddresses::of(&status)?;
    forwards
        .try_all()
        .await
        .context("a forward does not work")?;
    print(&format!(
        "To try in another terminal:\n\n{}",
        forwards.commands(sandbox)
    ));
    let mut pause = if once {
        Duration::ZERO
    } else {
        FIRST_CUT_DELAY
    };
    loop {
        // For the reader only: nothing is waited for.
        sleep(std::mem::take(&mut pause)).await;
        print(
            "Now the SSH connection is cut. A new connection to the local forward is held until the tunnel is back:",
        );
        let (cut, since) = (Instant::now(), jiff::Timestamp::now());
        sandbox.server.cut();
        let (held, status) = tokio::join!(page::get(forwards.local), watch.until_up(Some(since)));
        held.context("a connection made while the session was down failed")?;
        let status = status?;
        forwards.try_all().await.context("after the reconnect")?;
        print(&format!(
            "\nReconnected after {} ms; the held connection got its page, and all three forwards work again.\n\n{}",
            cut.elapsed().as_millis(),
            table(&status)
        ));
        if once {
            return Ok(());
        }
        wait_for_enter().await;
    }
}

/// Waits until the user presses Enter. Without a terminal, or after the end of input, waits for ever: only Ctrl-C ends
/// the demo.
async fn wait_for_enter() {
    if !std::io::stdin().is_terminal() {
        print("Ctrl-C ends the demo.");
        return std::future::pending().await;
    }
    print("Enter cuts the connection again, Ctrl-C ends the demo.");
    let mut line = String::new();
    match BufReader::new(tokio::io::stdin())
        .read_line(&mut line)
        .await
    {
        Ok(read) if read > 0 => {}
        _ => std::future::pending().await,
    }
}

/// Follows the status of the tunnel through the daemon's events, and prints each change.
struct StatusWatch {
    client: Client,
    started: Instant,
    last: TunnelStatus,
}

impl StatusWatch {
    async fn start(sandbox: &mut Sandbox) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut client = sandbox.connect().await?;
        let subscribed: Snapshot = client
            .call(method::SUBSCRIBE, &Subscribe::default())
            .await?;
        let mut tunnels = subscribed.tunnels.into_iter();
        let last = tunnels
            .next()
            .context("the daemon has no tunnel: its configuration has errors")?;
        Ok(Self {
            client,
            started,
            last,
        })
    }

    /// Prints each change until the tunnel is up and returns its status. With `since`, the session must be newer: right
    /// after a cut the daemon may still report the old session as up.
    async fn until_up(&mut self, since: Option<jiff::Timestamp>) -> anyhow::Result<TunnelStatus> {
        let reached = timeout(UP_TIMEOUT, async {
            loop {
                let session = self.last.session.as_ref().map(|session| session.since);
                let is_new =
                    since.is_none_or(|since| session.is_some_and(|session| session >= since));
                if self.last.state == State::Up && is_new {
                    return Ok(self.last.clone());
                }
                self.next().await?;
            }
        });
        let Ok(reached) = reached.await else {
            bail!(
                "the tunnel is {} after {UP_TIMEOUT:?}",
                self.last.state.as_str()
            );
        };
        reached
    }

    /// Receives one notification; prints it if it changes the state of the tunnel.
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
            print(&format!(
                "  {:>7.3} s  {line}",
                self.started.elapsed().as_secs_f64()
            ));
        }
        self.last = tunnel;
        Ok(())
    }
}

/// Addresses at which the three forwards of the tunnel listen.
struct ForwardAddresses {
    local: SocketAddr,
    remote: SocketAddr,
    dynamic: SocketAddr,
}

impl ForwardAddresses {
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
            ensure!(port != 0, "the {} forward has no port", kind.as_str());
            Ok(SocketAddr::from(([127, 0, 0, 1], port)))
        };
        Ok(Self {
            local: find(ForwardKind::Local)?,
            remote: find(ForwardKind::Remote)?,
            dynamic: find(ForwardKind::Dynamic)?,
        })
    }

    /// Reads a page through each forward.
    async fn try_all(&self) -> anyhow::Result<()> {
        page::get(self.local)
            .await
            .context("through the local forward")?;
        page::get(self.remote)
            .await
            .context("through the remote forward")?;
        let read = page::get_by_socks(self.dynamic, ssh_server::PAGE_HOST, 80);
        read.await.context("through the dynamic forward")
    }

    /// Returns command lines that the user can try.
    fn commands(&self, sandbox: &Sandbox) -> String {
        let Self {
            local,
            remote,
            dynamic,
        } = self;
        let tunnelctl = sandbox.tunnelctl_command();
        format!(
            "  curl http://{local}/\n  \
             curl http://{remote}/\n  \
             curl --socks5-hostname {dynamic} http://{host}/\n  \
             {tunnelctl} status\n",
            host = ssh_server::PAGE_HOST,
        )
    }
}
