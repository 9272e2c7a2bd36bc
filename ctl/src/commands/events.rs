//! `tunnelctl events`: prints events as they happen.

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
    let _: Snapshot = client
        .call(method::SUBSCRIBE, &Subscribe::default())
        .await?;
    context.ui.verbose("waiting for events");
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
                    context.ui.data(&event_lines(&event))?;
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

fn event_lines(event: &Event) -> Vec<Line> {
    let stamp = Line::of(Style::Dim, local(event.at)).and(" ");
    let body = match &event.body {
        EventBody::Tunnel { tunnel } => tunnel_line(tunnel),
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
    vec![stamp.join(body)]
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
