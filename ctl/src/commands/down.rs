//! `down`: stops tunnels.

use std::time::Duration;

use tunneld_proto::client::{Client, ClientError};
use tunneld_proto::error::ErrorKind;
use tunneld_proto::message::{Names, Remove, Tunnels, method};

use super::named::named;
use super::tunnels;
use crate::cli::Down;
use crate::daemon::Context;
use crate::exit::Exit;
use crate::output::line::{Ink, Line};
use crate::select::check;

/// How long tunnels may take to close; past that they are cut off.
const CLOSE: Duration = Duration::from_secs(15);
/// How much longer the daemon's word of it may take.
const REPLY: Duration = Duration::from_secs(5);

/// Runs the command.
pub(crate) async fn run(context: &Context, down: &Down) -> Result<(), Exit> {
    check(&down.which)?;
    let mut client = context.connect().await?;
    let tunnels = tunnels(&mut client).await?;
    let names = named(&mut client, &tunnels, &down.which).await?;
    if names.is_empty() {
        return Ok(());
    }
    let params = Names {
        names: names.clone(),
        wait: true,
        timeout_ms: u64::try_from(CLOSE.as_millis()).ok(),
    };
    let stopped: Tunnels = client
        .call_within(method::DOWN, &params, CLOSE + REPLY)
        .await?;
    for tunnel in &stopped.tunnels {
        context.ui.say(
            Line::of(Ink::Bold, &tunnel.name)
                .and(" ")
                .with(Ink::Dim, tunnel.state.as_str()),
        );
    }
    if context.ui.json {
        context.ui.json(&stopped.tunnels)?;
    }
    if down.remove {
        remove(context, &mut client, down, names).await?;
    }
    Ok(())
}

/// Forgets them. The configured ones stay, and only who named one is told so.
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
                .say(Line::of(Ink::Bold, &name).with(Ink::Dim, " removed")),
            Err(ClientError::Rpc(err)) if err.data.kind == ErrorKind::InvalidParams => {
                if down.which.names.contains(&name) {
                    refused.get_or_insert(err);
                } else {
                    context.ui.mention(&err.message);
                }
            }
            // It is gone already.
            Err(ClientError::Rpc(err)) if err.data.kind == ErrorKind::TunnelNotFound => {}
            Err(err) => return Err(err.into()),
        }
    }
    refused.map_or(Ok(()), |err| Err(err.into()))
}
