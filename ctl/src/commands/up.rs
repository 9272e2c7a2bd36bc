//! `up`: starts tunnels, or makes one on the spot; starts the daemon where none runs.

use std::time::Duration;

use jiff::Timestamp;
use tunneld_proto::client::Client;
use tunneld_proto::message::{Add, Added, method};

use super::follow::Following;
use super::named::named;
use super::wait::{self, Command};
use crate::cli::Up;
use crate::daemon::Context;
use crate::exit::Exit;
use crate::output::line::{Ink, Line};
use crate::select::check;

/// How long the daemon may take to prove a new tunnel: it asks ssh about every host.
const PROVE: Duration = Duration::from_secs(60);

/// Runs the command.
pub(crate) async fn run(context: &Context, up: &Up) -> Result<(), Exit> {
    // Before a daemon is started: wrong usage starts nothing.
    let add = if up.spot.is_given() {
        if up.which.all || !up.which.tag.is_empty() {
            return Err(Exit::usage(
                "--all and --tag mean tunnels that there are, ssh's flags make a new one",
            )
            .hint("give either, not both"));
        }
        let (add, notes) = up.spot.add(&up.which.names, context.env.cwd.as_deref())?;
        for note in notes {
            context
                .ui
                .say(Line::of(Ink::Warn, "note").and(": ").and(note));
        }
        Some(add)
    } else {
        check(&up.which)?;
        None
    };
    let mut client = context.connect_or_start().await?;
    let following = Following::begin(&mut client).await?;
    let begun = Timestamp::now();
    let names = match add {
        Some(add) => vec![make(context, &mut client, &add).await?],
        None => named(&mut client, &following.all(), &up.which).await?,
    };
    if names.is_empty() {
        context.ui.say(
            "no tunnel is configured; make one with: tunnelctl up -L 8088:localhost:80 user@host",
        );
        return Ok(());
    }
    let command = Command {
        method: method::UP,
        anew: false,
        names,
        limit: up.wait.limit(),
        begun,
    };
    wait::run(context, &mut client, following, command).await
}

async fn make(context: &Context, client: &mut Client, add: &Add) -> Result<String, Exit> {
    let added: Added = client.call_within(method::ADD, add, PROVE).await?;
    if let Some(file) = added.file {
        context
            .ui
            .say(format!("{} is written to {file}", added.name));
    }
    Ok(added.name)
}
