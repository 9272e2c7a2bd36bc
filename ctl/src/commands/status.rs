//! `tunnelctl status`: shows the state of tunnels, once or with every change.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tunneld_proto::client::Client;
use tunneld_proto::message::{DaemonStatus, method};
use tunneld_proto::status::{State, TunnelStatus};

use super::mirror::{Change, Mirror, connection_lost};
use super::resolve::{print_config_errors, resolve_names};
use super::{events, tunnels};
use crate::cli::{Selection, Status};
use crate::daemon::Context;
use crate::exit::{Exit, INTERRUPTED, NOT_UP, USAGE};
use crate::output::line::{Line, Style};
use crate::output::{Ui, detail, status};
use crate::select::{is_pattern, is_selected};

/// How often `--watch` redraws the screen without a change, because the ages in it grow.
const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

/// Prints the selected tunnels, all by default; exit 3 if a tunnel that was selected by name or tag is neither up nor
/// idle.
pub(crate) async fn run(context: &Context, args: &Status) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    if args.watch {
        return watch(context, &mut client, args).await;
    }
    let mut shown = tunnels(&mut client).await?;
    let names = resolve_names(&mut client, &shown, &selection(args)).await?;
    shown.retain(|tunnel| names.contains(&tunnel.name));
    if context.ui.json {
        context.ui.json(&shown)?;
    } else {
        context.ui.data(&lines(&shown, args, None))?;
    }
    let broken = print_daemon_notes(context, &mut client, shown.is_empty()).await;
    let is_ready = |tunnel: &TunnelStatus| matches!(tunnel.state, State::Up | State::Idle);
    // Without names the command only shows: a stopped tunnel is not a failure then.
    if !selection(args).all && !shown.iter().all(is_ready) {
        return Err(Exit::silent(NOT_UP));
    }
    // Tunnels of a broken file may be missing in the list. That is no matter of tunnels that were named and found.
    match broken {
        Err(exit) if exit.code == USAGE && !selection(args).all => Ok(()),
        result => result,
    }
}

fn selection(args: &Status) -> Selection {
    Selection {
        names: args.names.clone(),
        tag: args.tag.clone(),
        all: args.names.is_empty() && args.tag.is_empty(),
    }
}

/// `height` is that of the screen in lines; `None` if nothing has to be left out.
fn lines(shown: &[TunnelStatus], args: &Status, height: Option<usize>) -> Vec<Line> {
    let now = Timestamp::now();
    match (args.names.as_slice(), shown) {
        ([name], [tunnel]) if !is_pattern(name) => detail::lines(tunnel, now),
        (_, []) => Vec::new(),
        (_, shown) => {
            let mut sorted = shown.to_vec();
            sorted.sort_by(|a, b| status::natural_order(&a.name, &b.name));
            match height {
                Some(height) => status::screen(&sorted, now, Ui::width(), height),
                None => status::table(&sorted, now, Ui::width()),
            }
        }
    }
}

/// Prints the errors of the configuration and the daemon's notes; `empty` says that no tunnel was shown. Exit 2 if the
/// configuration has errors.
async fn print_daemon_notes(
    context: &Context,
    client: &mut Client,
    empty: bool,
) -> Result<(), Exit> {
    let daemon: DaemonStatus = client
        .call(method::DAEMON_STATUS, &serde_json::Value::Null)
        .await?;
    let broken = print_config_errors(context, &daemon.config_errors);
    for note in &daemon.notes {
        context
            .ui
            .info(Line::of(Style::Dim, "note").and(": ").and(note));
    }
    if empty {
        context.ui.info(format!(
            "no tunnel is configured; add one to {}, or with: tunnelctl up -L 8088:localhost:80 user@host",
            daemon.config_dir
        ));
    }
    broken
}

async fn watch(context: &Context, client: &mut Client, args: &Status) -> Result<(), Exit> {
    let mut mirror = Mirror::subscribe(client).await?;
    // A name without a tunnel is an error now; later, tunnels may come and go.
    resolve_names(client, &mirror.all(), &selection(args)).await?;
    let screen = Ui::width().is_some() && !context.ui.json;
    show(context, &mirror, args, &Change::All, screen)?;
    let mut before = selected_names(&mirror, args);
    let mut redraw = interval(REDRAW_INTERVAL);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let change = tokio::select! {
            notification = client.notification() => {
                mirror.apply(notification?.ok_or_else(connection_lost)?)
            }
            _ = redraw.tick(), if screen => Change::All,
            _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
        };
        match change {
            Change::Nothing => {}
            Change::Bye => {
                context.ui.info("the daemon has stopped");
                return Ok(());
            }
            // The tags of a removed tunnel are gone with it, so the names from before the change decide.
            Change::Removed(name) if !before.contains(&name) => {}
            change => {
                show(context, &mirror, args, &change, screen)?;
                before = selected_names(&mirror, args);
            }
        }
    }
}

/// Returns the selected tunnels. Unlike [`resolve_names`] it ignores a name without a tunnel.
fn selected(mirror: &Mirror, args: &Status) -> Vec<TunnelStatus> {
    let selection = selection(args);
    let mut tunnels = mirror.all();
    tunnels.retain(|tunnel| is_selected(tunnel, &selection));
    tunnels
}

fn selected_names(mirror: &Mirror, args: &Status) -> Vec<String> {
    let shown = selected(mirror, args);
    shown.into_iter().map(|tunnel| tunnel.name).collect()
}

fn show(
    context: &Context,
    mirror: &Mirror,
    args: &Status,
    change: &Change,
    screen: bool,
) -> Result<(), Exit> {
    let shown = selected(mirror, args);
    if screen {
        return context.ui.redraw(&lines(&shown, args, Ui::screen_height()));
    }
    let changed: Vec<&TunnelStatus> = match change {
        Change::Tunnel(name) => shown.iter().filter(|tunnel| tunnel.name == *name).collect(),
        Change::Removed(name) if context.ui.json => {
            return context.ui.json(&json!({"name": name, "removed": true}));
        }
        Change::Removed(name) => {
            return context
                .ui
                .data(&[Line::of(Style::Bold, name).and(" removed")]);
        }
        _ => shown.iter().collect(),
    };
    for tunnel in changed {
        if context.ui.json {
            context.ui.json(tunnel)?;
        } else {
            context.ui.data(&[events::tunnel_line(tunnel)])?;
        }
    }
    Ok(())
}
