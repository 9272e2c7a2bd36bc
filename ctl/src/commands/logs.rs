//! `logs`: the daemon's log, and what comes.

use jiff::Timestamp;
use tunneld_proto::client::{Client, Notification};
use tunneld_proto::message::{EventBody, LogLine, LogLines, LogTail, Snapshot, Subscribe, method};

use super::{follow::lost, tunnels};
use crate::cli::{Logs, Which};
use crate::daemon::Context;
use crate::exit::{Exit, INTERRUPTED};
use crate::output::line::{Ink, Line};
use crate::select::select;
use crate::time::local;

/// Runs the command.
pub(crate) async fn run(context: &Context, asked: &Logs) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let mut params = LogTail {
        name: asked.name.clone(),
        since: asked.since.map(|since| since.moment(Timestamp::now())),
        follow: asked.follow,
    };
    let early: LogLines = client.call(method::LOG_TAIL, &params).await?;
    // A tunnel that is gone may have left lines; a name that has none and is none is a mistake.
    if let Some(name) = params.name.take().filter(|_| early.lines.is_empty()) {
        let names = vec![name];
        let which = Which {
            names,
            ..Which::default()
        };
        select(&tunnels(&mut client).await?, &which)?;
    }
    for line in &early.lines {
        show(context, line)?;
    }
    if !asked.follow {
        return Ok(());
    }
    follow(context, &mut client).await
}

/// Shows what comes. Only events tell a daemon that stops from one that is lost; its last lines may come after.
async fn follow(context: &Context, client: &mut Client) -> Result<(), Exit> {
    let _: Snapshot = client
        .call(method::SUBSCRIBE, &Subscribe::default())
        .await?;
    let mut stopping = false;
    loop {
        let said = tokio::select! {
            said = client.notification() => said?,
            _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
        };
        match said {
            Some(Notification::Log(line)) => show(context, &line)?,
            Some(Notification::Event(event)) => stopping |= event.body == EventBody::Bye,
            Some(_) => {}
            None if stopping => {
                context.ui.say("the daemon has stopped");
                return Ok(());
            }
            None => return Err(lost()),
        }
    }
}

fn show(context: &Context, line: &LogLine) -> Result<(), Exit> {
    if context.ui.json {
        return context.ui.json(line);
    }
    let ink = match line.level.as_str() {
        "error" => Ink::Bad,
        "warn" => Ink::Warn,
        "info" => Ink::Good,
        _ => Ink::Dim,
    };
    let tunnel = line
        .tunnel
        .as_ref()
        .map(|tunnel| format!("{tunnel}: "))
        .unwrap_or_default();
    context.ui.data(&[Line::of(Ink::Dim, local(line.at))
        .and(" ")
        .with(ink, format!("{:<5}", line.level))
        .and(" ")
        .with(Ink::Bold, tunnel)
        .and(&line.message)])
}
