//! One file per command. A command asks the daemon for data and passes it to `output`; it neither colours nor
//! escapes text itself.

pub(crate) mod answer;
mod bring_up;
pub(crate) mod browse;
mod browser;
pub(crate) mod check;
pub(crate) mod connect;
pub(crate) mod down;
pub(crate) mod env;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod import;
pub(crate) mod logs;
pub(crate) mod metrics;
mod mirror;
pub(crate) mod pac;
pub(crate) mod proxy_env;
pub(crate) mod reload;
mod resolve;
pub(crate) mod restart;
pub(crate) mod shutdown;
pub(crate) mod status;
pub(crate) mod up;
mod wait;
pub(crate) mod web;

use tunneld_proto::client::Client;
use tunneld_proto::message::{StatusParams, Tunnels, method};
use tunneld_proto::status::TunnelStatus;

use crate::exit::Exit;

/// Requests the status of every tunnel, sorted by name.
async fn tunnels(client: &mut Client) -> Result<Vec<TunnelStatus>, Exit> {
    let all: Tunnels = client
        .call(method::STATUS, &StatusParams::default())
        .await?;
    Ok(all.tunnels)
}
