//! `status`: how tunnels stand, once or at every change.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tunneld_proto::client::Client;
use tunneld_proto::message::{DaemonStatus, method};
use tunneld_proto::status::{State, TunnelStatus};

use super::follow::{Change, Following, lost};
use super::named::named;
use super::tunnels;
use crate::cli::{Status, Which};
use crate::daemon::Context;
use crate::exit::{Exit, INTERRUPTED, NOT_UP};
use crate::output::line::{Ink, Line};
use crate::output::{Ui, detail, status};
use crate::select::{is_meant, is_pattern};

/// Runs the command.
pub(crate) async fn run(context: &Context, asked: &Status) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    if asked.watch {
        return watch(context, &mut client, asked).await;
    }
    let mut shown = tunnels(&mut client).await?;
    let names = named(&mut client, &shown, &which(asked)).await?;
    shown.retain(|tunnel| names.contains(&tunnel.name));
    if context.ui.json {
        context.ui.json(&shown)?;
    } else {
        context.ui.data(&lines(&shown, asked))?;
    }
    faults(context, &mut client, shown.is_empty()).await?;
    let named = !asked.names.is_empty() || !asked.tag.is_empty();
    if named
        && shown
            .iter()
            .any(|tunnel| !matches!(tunnel.state, State::Up | State::Idle))
    {
        return Err(Exit::silent(NOT_UP));
    }
    Ok(())
}

fn which(asked: &Status) -> Which {
    Which {
        names: asked.names.clone(),
        tag: asked.tag.clone(),
        all: asked.names.is_empty() && asked.tag.is_empty(),
    }
}

fn lines(shown: &[TunnelStatus], asked: &Status) -> Vec<Line> {
    let now = Timestamp::now();
    match (asked.names.as_slice(), shown) {
        ([name], [tunnel]) if !is_pattern(name) => detail::lines(tunnel, now),
        (_, []) => Vec::new(),
        _ => status::table(shown, now, Ui::width()),
    }
}

/// What is wrong with the configuration, and what a person should know of the daemon.
async fn faults(context: &Context, client: &mut Client, empty: bool) -> Result<(), Exit> {
    let daemon: DaemonStatus = client
        .call(method::DAEMON_STATUS, &serde_json::Value::Null)
        .await?;
    for fault in &daemon.config_errors {
        for line in status::fault(fault) {
            context.ui.complain(&line);
        }
    }
    if !daemon.config_errors.is_empty() {
        context.ui.complain(&Line::of(Ink::Warn, "warning").and(
            ": the configuration has errors; what they stand in keeps its last good state. Correct them, then: tunnelctl reload",
        ));
    }
    for note in &daemon.notes {
        context
            .ui
            .say(Line::of(Ink::Dim, "note").and(": ").and(note));
    }
    if empty {
        context.ui.say(format!(
            "no tunnel is configured; write one to {}, or make one with: tunnelctl up -L 8088:localhost:80 user@host",
            daemon.config_dir
        ));
    }
    Ok(())
}

async fn watch(context: &Context, client: &mut Client, asked: &Status) -> Result<(), Exit> {
    let mut following = Following::begin(client).await?;
    // A name that finds nothing is told at once; later ones may come and go.
    named(client, &following.all(), &which(asked)).await?;
    let screen = Ui::width().is_some() && !context.ui.json;
    show(context, &following, asked, &Change::All, screen)?;
    let mut before = names(&following, asked);
    // The ages that a screen shows grow by themselves.
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let change = tokio::select! {
            said = client.notification() => match said? {
                Some(said) => following.hear(said),
                None => return Err(lost()),
            },
            _ = second.tick(), if screen => Change::All,
            _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
        };
        match change {
            Change::Nothing => {}
            Change::Bye => {
                context.ui.say("the daemon has stopped");
                return Ok(());
            }
            // Whether one that is gone was meant is known from before alone: by its tags, for one.
            Change::Removed(name) if !before.contains(&name) => {}
            change => {
                show(context, &following, asked, &change, screen)?;
                before = names(&following, asked);
            }
        }
    }
}

/// Those that are meant; a name that finds nothing any more takes none of the others away.
fn meant(following: &Following, asked: &Status) -> Vec<TunnelStatus> {
    let which = which(asked);
    let mut meant = following.all();
    meant.retain(|tunnel| is_meant(tunnel, &which));
    meant
}

fn names(following: &Following, asked: &Status) -> Vec<String> {
    let shown = meant(following, asked);
    shown.into_iter().map(|tunnel| tunnel.name).collect()
}

fn show(
    context: &Context,
    following: &Following,
    asked: &Status,
    change: &Change,
    screen: bool,
) -> Result<(), Exit> {
    let shown = meant(following, asked);
    if screen {
        return context.ui.redraw(&lines(&shown, asked));
    }
    let changed: Vec<&TunnelStatus> = match change {
        Change::Tunnel(name) => shown.iter().filter(|tunnel| tunnel.name == *name).collect(),
        Change::Removed(name) if context.ui.json => {
            return context.ui.json(&json!({"name": name, "removed": true}));
        }
        Change::Removed(name) => {
            return context
                .ui
                .data(&[Line::of(Ink::Bold, name).and(" removed")]);
        }
        _ => shown.iter().collect(),
    };
    for tunnel in changed {
        if context.ui.json {
            context.ui.json(tunnel)?;
        } else {
            context.ui.data(&[super::events::tunnel(tunnel)])?;
        }
    }
    Ok(())
}
