//! `restart`: stops tunnels and starts them again.

use jiff::Timestamp;
use tunneld_proto::message::method;

use super::follow::Following;
use super::named::named;
use super::wait::{self, Command};
use crate::cli::Restart;
use crate::daemon::Context;
use crate::exit::Exit;
use crate::select::check;

/// Runs the command.
pub(crate) async fn run(context: &Context, restart: &Restart) -> Result<(), Exit> {
    check(&restart.which)?;
    let mut client = context.connect().await?;
    let following = Following::begin(&mut client).await?;
    let names = named(&mut client, &following.all(), &restart.which).await?;
    if names.is_empty() {
        return Ok(());
    }
    let command = Command {
        method: method::RESTART,
        anew: true,
        names,
        limit: restart.wait.limit(),
        begun: Timestamp::now(),
    };
    wait::run(context, &mut client, following, command).await
}
