//! `down`: stops tunnels.

use std::time::Duration;

use tunneld_proto::message::{Names, Remove, Tunnels, method};

use super::tunnels;
use crate::cli::Down;
use crate::daemon::Context;
use crate::exit::Exit;
use crate::output::line::{Ink, Line};
use crate::select::{check, select};

/// How long tunnels may take to close; past that they are cut off.
const CLOSE: Duration = Duration::from_secs(15);
/// How much longer the daemon's word of it may take.
const REPLY: Duration = Duration::from_secs(5);

/// Runs the command.
pub(crate) async fn run(context: &Context, down: &Down) -> Result<(), Exit> {
    check(&down.which)?;
    let mut client = context.connect().await?;
    let names = select(&tunnels(&mut client).await?, &down.which)?;
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
        for name in names {
            let _: serde_json::Value = client.call(method::REMOVE, &Remove { name }).await?;
        }
    }
    Ok(())
}
