//! The commands, a file each: each gets its data from the daemon and hands it to `output`.

pub(crate) mod answer;
pub(crate) mod check;
pub(crate) mod connect;
pub(crate) mod down;
pub(crate) mod events;
mod follow;
pub(crate) mod logs;
mod named;
pub(crate) mod reload;
pub(crate) mod restart;
pub(crate) mod shutdown;
pub(crate) mod status;
pub(crate) mod up;
mod wait;

use tunneld_proto::client::Client;
use tunneld_proto::message::{StatusParams, Tunnels, method};
use tunneld_proto::status::TunnelStatus;

use crate::exit::Exit;

/// How every tunnel stands.
async fn tunnels(client: &mut Client) -> Result<Vec<TunnelStatus>, Exit> {
    let all: Tunnels = client
        .call(method::STATUS, &StatusParams::default())
        .await?;
    Ok(all.tunnels)
}
