//! `tunnelctl events`: prints events as they happen.

use std::collections::HashMap;

use tunneld_proto::client::Notification;
use tunneld_proto::message::{Event, EventBody, Snapshot, Subscribe, method};
use tunneld_proto::status::{State, TunnelStatus};

use super::mirror::connection_lost;
use crate::daemon::Context;
use crate::exit::{Exit, INTERRUPTED};
use crate::output::line::{Line, Style};
use crate::output::status;
use crate::time::local;

/// Prints each event until the daemon stops.
pub(crate) async fn run(context: &Context) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let snapshot: Snapshot = client
        .call(method::SUBSCRIBE, &Subscribe::default())
        .await?;
    context.ui.verbose("waiting for events");
    let mut refusals = Refusals::new();
    for tunnel in &snapshot.tunnels {
        new_refusals(tunnel, &mut refusals);
    }
    loop {
        let notification = tokio::select! {
            notification = client.notification() => notification?.ok_or_else(connection_lost)?,
            _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
        };
        match notification {
            Notification::Event(event) => {
                if context.ui.json {
                    context.ui.json(&event)?;
                } else {
                    let lines = event_lines(&event, &mut refusals);
                    context.ui.data(&lines)?;
                }
                if event.body == EventBody::Bye {
                    context.ui.info("the daemon has stopped");
                    return Ok(());
                }
            }
            Notification::Lagged(snapshot) if context.ui.json => {
                context
                    .ui
                    .json(&serde_json::json!({"kind": "lagged", "snapshot": snapshot}))?;
            }
            Notification::Lagged(snapshot) => {
                let missed = snapshot.missed.unwrap_or_default();
                context.ui.data(&[Line::of(
                    Style::Warn,
                    format!("{missed} events were missed"),
                )])?;
            }
            Notification::Log(_) | Notification::Unknown(_) => {}
        }
    }
}

/// How many connections each forward has refused, by the tunnel's name and the forward's address.
type Refusals = HashMap<(String, String), u64>;

fn event_lines(event: &Event, refusals: &mut Refusals) -> Vec<Line> {
    let stamp = || Line::of(Style::Dim, local(event.at)).and(" ");
    let body = match &event.body {
        EventBody::Tunnel { tunnel } => {
            // Of an event for a refusal, only the refusal is new.
            let refused = new_refusals(tunnel, refusals);
            if !refused.is_empty() {
                return refused.into_iter().map(|line| stamp().join(line)).collect();
            }
            tunnel_line(tunnel)
        }
        EventBody::Removed { name } => Line::of(Style::Bold, name).and(" removed"),
        EventBody::Prompt { prompt } => Line::of(Style::Bold, &prompt.tunnel)
            .and(format!(" is {}", status::waiting_for(prompt.kind))),
        EventBody::PromptGone { id } => Line::from(format!("prompt {id} is closed")),
        EventBody::Config { report } => Line::from(format!(
            "configuration read: {} added, {} changed, {} removed, {} errors",
            report.added.len(),
            report.changed.len(),
            report.removed.len(),
            report.errors.len()
        )),
        EventBody::Bye => Line::from("the daemon is stopping"),
        // An event of a newer daemon; it has no text that could be shown.
        EventBody::Unknown => return Vec::new(),
    };
    vec![stamp().join(body)]
}

/// Formats the refusals that are not in `known`, and adds them.
fn new_refusals(tunnel: &TunnelStatus, known: &mut Refusals) -> Vec<Line> {
    let mut lines = Vec::new();
    for forward in &tunnel.forwards {
        let Some(refused) = &forward.refused else {
            continue;
        };
        let key = (tunnel.name.clone(), forward.listen.clone());
        if known.insert(key, refused.count) == Some(refused.count) {
            continue;
        }
        let code = refused.code.map(|code| format!(" (code {code})"));
        lines.push(
            Line::of(Style::Bold, &tunnel.name)
                .and(format!(" {}: ", forward.listen))
                .with(
                    Style::Warn,
                    format!(
                        "a connection was refused: {}{}",
                        refused.message,
                        code.unwrap_or_default()
                    ),
                ),
        );
    }
    lines
}

/// Formats the state of a tunnel in one line, with the reason if it is waiting or has failed.
pub(super) fn tunnel_line(tunnel: &TunnelStatus) -> Line {
    let phase = tunnel
        .phase
        .map(|phase| format!(" ({})", phase.as_str()))
        .unwrap_or_default();
    let is_down = matches!(tunnel.state, State::Waiting | State::Failed);
    let error = tunnel.last_error.as_ref().filter(|_| is_down);
    Line::of(Style::Bold, &tunnel.name)
        .and(" ")
        .with(status::style_of(tunnel.state), tunnel.state.as_str())
        .and(phase)
        .and(
            error
                .map(|error| format!(": {}", error.message))
                .unwrap_or_default(),
        )
}
