//! `events`: what happens, as it happens.

use tunneld_proto::client::Notification;
use tunneld_proto::message::{Event, EventBody, Snapshot, Subscribe, method};
use tunneld_proto::status::TunnelStatus;

use super::follow::lost;
use crate::daemon::Context;
use crate::exit::{Exit, INTERRUPTED};
use crate::output::line::{Ink, Line};
use crate::output::status;
use crate::time::local;

/// Runs the command.
pub(crate) async fn run(context: &Context) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let _: Snapshot = client
        .call(method::SUBSCRIBE, &Subscribe::default())
        .await?;
    context.ui.mention("listening");
    loop {
        let said = tokio::select! {
            said = client.notification() => said?.ok_or_else(lost)?,
            _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
        };
        match said {
            Notification::Event(event) => {
                if context.ui.json {
                    context.ui.json(&event)?;
                } else {
                    context.ui.data(&lines(&event))?;
                }
                if event.body == EventBody::Bye {
                    context.ui.say("the daemon has stopped");
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
                context
                    .ui
                    .data(&[Line::of(Ink::Warn, format!("{missed} events were missed"))])?;
            }
            Notification::Log(_) | Notification::Unknown(_) => {}
        }
    }
}

fn lines(event: &Event) -> Vec<Line> {
    let stamp = Line::of(Ink::Dim, local(event.at)).and(" ");
    let body = match &event.body {
        EventBody::Tunnel { tunnel: changed } => tunnel(changed),
        EventBody::Removed { name } => Line::of(Ink::Bold, name).and(" removed"),
        EventBody::Prompt { prompt } => Line::of(Ink::Bold, &prompt.tunnel)
            .and(format!(" asks: {}", status::question(prompt.kind))),
        EventBody::PromptGone { id } => Line::from(format!("prompt {id} is gone")),
        EventBody::Config { report } => Line::from(format!(
            "configuration read: {} added, {} changed, {} removed, {} errors",
            report.added.len(),
            report.changed.len(),
            report.removed.len(),
            report.errors.len()
        )),
        EventBody::Bye => Line::from("the daemon stops"),
        EventBody::Unknown => return Vec::new(),
    };
    vec![stamp.join(body)]
}

/// A tunnel's change in one line.
pub(super) fn tunnel(tunnel: &TunnelStatus) -> Line {
    use tunneld_proto::status::State;
    let phase = tunnel
        .phase
        .map(|phase| format!(" ({})", phase.as_str()))
        .unwrap_or_default();
    let troubled = matches!(tunnel.state, State::Waiting | State::Failed);
    let why = tunnel.last_error.as_ref().filter(|_| troubled);
    Line::of(Ink::Bold, &tunnel.name)
        .and(" ")
        .with(status::ink(tunnel.state), tunnel.state.as_str())
        .and(phase)
        .and(
            why.map(|error| format!(": {}", error.message))
                .unwrap_or_default(),
        )
}
