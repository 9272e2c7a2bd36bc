//! Brings one tunnel up for a command that then uses it, such as `exec` and `browse`.

use std::time::Duration;

use jiff::Timestamp;
use tunneld_proto::client::Client;
use tunneld_proto::message::{Names, method};
use tunneld_proto::status::{Desired, ForwardKind, ForwardState, TunnelStatus};

use super::mirror::Mirror;
use super::wait::{self, Command};
use crate::daemon::Context;
use crate::exit::{Exit, NO_TUNNEL};

/// How long the tunnel may take to come up; time for answering prompts does not count.
const UP_TIMEOUT: Duration = Duration::from_secs(30);

/// A tunnel that is up.
pub(super) struct UpTunnel {
    pub(super) status: TunnelStatus,
    /// Whether it was down before, so that the command that brought it up also takes it down.
    pub(super) was_down: bool,
}

/// Brings the tunnel up as `tunnelctl up` does, without printing the result. Prompts are asked on the terminal.
///
/// # Errors
/// What kept the tunnel down.
pub(super) async fn bring_up(
    context: &Context,
    client: &mut Client,
    name: &str,
) -> Result<UpTunnel, Exit> {
    let mirror = Mirror::subscribe(client).await?;
    let was_down = mirror
        .get(name)
        .is_none_or(|tunnel| tunnel.desired == Desired::Down);
    let command = Command {
        method: method::UP,
        fresh: false,
        names: vec![name.to_owned()],
        limit: Some(UP_TIMEOUT),
        prints_result: false,
        begun: Timestamp::now(),
    };
    wait::run(context, client, mirror, command).await?;
    let tunnels = super::tunnels(client).await?;
    let status = tunnels.into_iter().find(|tunnel| tunnel.name == name);
    let status = status.ok_or_else(|| {
        Exit::new(
            NO_TUNNEL,
            format!("the tunnel {name} was removed meanwhile"),
        )
        .hint("see: tunnelctl status")
    })?;
    Ok(UpTunnel { status, was_down })
}

/// Stops the tunnel. A failure is only reported: the command itself has done its work.
pub(super) async fn take_down(context: &Context, client: &mut Client, name: &str) {
    let names = Names {
        names: vec![name.to_owned()],
        wait: false,
        timeout_ms: None,
    };
    let stopped: Result<serde_json::Value, _> = client.call(method::DOWN, &names).await;
    if stopped.is_err() {
        context.ui.info(format!(
            "the tunnel {name} could not be stopped; run: tunnelctl down {name}"
        ));
    }
}

/// Returns the address of the tunnel's proxy, as `HOST:PORT`. `None` if no dynamic forward listens on a TCP port.
pub(super) fn proxy_address(status: &TunnelStatus) -> Option<String> {
    let forwards = status.forwards.iter();
    let mut proxies = forwards.filter(|forward| {
        forward.kind == ForwardKind::Dynamic && forward.state == ForwardState::Listening
    });
    proxies.find_map(|forward| {
        let mut address: std::net::SocketAddr = forward.listen.parse().ok()?;
        if address.ip().is_unspecified() {
            // Nothing can connect to the unspecified address itself.
            address.set_ip(match address {
                std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        Some(address.to_string())
    })
}
