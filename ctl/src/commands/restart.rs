//! `tunnelctl restart`: stops tunnels and starts them again.

use jiff::Timestamp;
use tunneld_proto::message::method;

use super::mirror::Mirror;
use super::resolve::{check_selection, resolve_names};
use super::wait::{self, Command};
use crate::cli::Restart;
use crate::daemon::Context;
use crate::exit::Exit;
use crate::select::require_selection;

/// Restarts the selected tunnels. Without `--no-wait` it returns when each has a new session, has failed (exit 1), or
/// the limit has passed (exit 6).
pub(crate) async fn run(context: &Context, restart: &Restart) -> Result<(), Exit> {
    require_selection(&restart.selection)?;
    let mut client = context.connect().await?;
    let mirror = Mirror::subscribe(&mut client).await?;
    let names = resolve_names(&mut client, &mirror.all(), &restart.selection).await?;
    if names.is_empty() {
        return check_selection(context, &mut client, &restart.selection, Ok(())).await;
    }
    let command = Command {
        prints_result: true,
        method: method::RESTART,
        fresh: true,
        names,
        limit: restart.wait.limit(),
        begun: Timestamp::now(),
    };
    let outcome = wait::run(context, &mut client, mirror, command).await;
    check_selection(context, &mut client, &restart.selection, outcome).await
}
