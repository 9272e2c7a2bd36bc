//! `logs`: the daemon's log, and what comes.

use jiff::Timestamp;
use tunneld_proto::client::Notification;
use tunneld_proto::message::{LogLine, LogLines, LogTail, method};

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
    loop {
        tokio::select! {
            said = client.notification() => match said?.ok_or_else(lost)? {
                Notification::Log(line) => show(context, &line)?,
                Notification::Lagged(snapshot) => {
                    let missed = snapshot.missed.unwrap_or_default();
                    context.ui.say(format!("{missed} lines were missed"));
                }
                _ => {}
            },
            _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
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
