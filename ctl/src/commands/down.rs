//! `tunnelctl down`: stops tunnels.

use std::time::Duration;

use tunneld_proto::client::{Client, ClientError};
use tunneld_proto::error::ErrorKind;
use tunneld_proto::message::{Names, Remove, Tunnels, method};
use tunneld_proto::status::Desired;

use super::mirror::carrier_of;
use super::resolve::resolve_names;
use super::tunnels;
use crate::cli::Down;
use crate::daemon::Context;
use crate::exit::Exit;
use crate::output::line::{Line, Style};
use crate::select::require_selection;

/// How long tunnels may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
/// Time added to [`CLOSE_TIMEOUT`] for the daemon's reply, so that its own timeout error arrives before this one.
const REPLY_MARGIN: Duration = Duration::from_secs(5);

/// Stops the selected tunnels and returns when all are stopped; with `--remove` it also removes the ad-hoc ones.
pub(crate) async fn run(context: &Context, down: &Down) -> Result<(), Exit> {
    require_selection(&down.selection)?;
    let mut client = context.connect().await?;
    let tunnels = tunnels(&mut client).await?;
    let names = resolve_names(&mut client, &tunnels, &down.selection).await?;
    if names.is_empty() {
        return Ok(());
    }
    let params = Names {
        names: names.clone(),
        wait: true,
        timeout_ms: u64::try_from(CLOSE_TIMEOUT.as_millis()).ok(),
    };
    let stopped: Tunnels = client
        .call_within(method::DOWN, &params, CLOSE_TIMEOUT + REPLY_MARGIN)
        .await?;
    for tunnel in &stopped.tunnels {
        context.ui.info(
            Line::of(Style::Bold, &tunnel.name)
                .and(" ")
                .with(Style::Dim, tunnel.state.as_str()),
        );
    }
    for tunnel in &tunnels {
        if let Some(carrier) = carrier_of(tunnel)
            && tunnel.desired == Desired::Up
            && names.iter().any(|name| name == carrier)
            && !names.contains(&tunnel.name)
        {
            context.ui.info(format!(
                "{} goes over {carrier} and waits until that tunnel is up again",
                tunnel.name
            ));
        }
    }
    if context.ui.json {
        context.ui.json(&stopped.tunnels)?;
    }
    if down.remove {
        remove(context, &mut client, down, names).await?;
    }
    Ok(())
}

/// Removes the ad-hoc tunnels among `names`. Tunnels from the configuration stay; that is an error only for one that
/// the user named exactly, not for one that a pattern, a tag or `--all` selected.
async fn remove(
    context: &Context,
    client: &mut Client,
    down: &Down,
    names: Vec<String>,
) -> Result<(), Exit> {
    let mut refused = None;
    for name in names {
        let removed: Result<serde_json::Value, _> = client
            .call(method::REMOVE, &Remove { name: name.clone() })
            .await;
        match removed {
            Ok(_) => context
                .ui
                .info(Line::of(Style::Bold, &name).with(Style::Dim, " removed")),
            Err(ClientError::Rpc(err)) if err.data.kind == ErrorKind::InvalidParams => {
                if down.selection.names.contains(&name) {
                    // The others are still removed; the first refusal is the one reported.
                    refused.get_or_insert(err);
                } else {
                    context.ui.verbose(&err.message);
                }
            }
            // Another client removed it first.
            Err(ClientError::Rpc(err)) if err.data.kind == ErrorKind::TunnelNotFound => {}
            Err(err) => return Err(err.into()),
        }
    }
    refused.map_or(Ok(()), |err| Err(err.into()))
}
