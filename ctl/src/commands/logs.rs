//! `tunnelctl logs`: the last lines of the daemon's log, and with `--follow` the new ones.

use jiff::Timestamp;
use tunneld_proto::client::{Client, Notification};
use tunneld_proto::message::{EventBody, LogLine, LogLines, LogTail, Snapshot, Subscribe, method};

use super::{mirror::connection_lost, tunnels};
use crate::cli::{Logs, Selection};
use crate::daemon::Context;
use crate::exit::{Exit, INTERRUPTED};
use crate::output::line::{Line, Style};
use crate::select::select;
use crate::time::local;

/// Prints log lines; exit 4 if the tunnel is unknown and has no lines either.
pub(crate) async fn run(context: &Context, args: &Logs) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let mut params = LogTail {
        name: args.name.clone(),
        since: args.since.map(|since| since.moment(Timestamp::now())),
        follow: args.follow,
    };
    let first: LogLines = client.call(method::LOG_TAIL, &params).await?;
    // A removed tunnel may still have lines, so the name is checked only if there are none: then it may be a typo.
    if let Some(name) = params.name.take().filter(|_| first.lines.is_empty()) {
        let selection = Selection {
            names: vec![name],
            ..Selection::default()
        };
        select(&tunnels(&mut client).await?, &selection)?;
    }
    for line in &first.lines {
        show(context, line)?;
    }
    if !args.follow {
        return Ok(());
    }
    follow(context, &mut client).await
}

/// Prints new lines until the daemon stops.
async fn follow(context: &Context, client: &mut Client) -> Result<(), Exit> {
    // Only the event stream distinguishes a daemon that stops from a lost connection.
    let _: Snapshot = client
        .call(method::SUBSCRIBE, &Subscribe::default())
        .await?;
    let mut stopping = false;
    loop {
        let notification = tokio::select! {
            notification = client.notification() => notification?,
            _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
        };
        match notification {
            Some(Notification::Log(line)) => show(context, &line)?,
            // The daemon may log more lines after this event, so it reads until the connection is closed.
            Some(Notification::Event(event)) => stopping |= event.body == EventBody::Bye,
            Some(_) => {}
            None if stopping => {
                context.ui.info("the daemon has stopped");
                return Ok(());
            }
            None => return Err(connection_lost()),
        }
    }
}

fn show(context: &Context, line: &LogLine) -> Result<(), Exit> {
    if context.ui.json {
        return context.ui.json(line);
    }
    let style = match line.level.as_str() {
        "error" => Style::Bad,
        "warn" => Style::Warn,
        "info" => Style::Good,
        _ => Style::Dim,
    };
    let tunnel = line
        .tunnel
        .as_ref()
        .map(|tunnel| format!("{tunnel}: "))
        .unwrap_or_default();
    context.ui.data(&[Line::of(Style::Dim, local(line.at))
        .and(" ")
        .with(style, format!("{:<5}", line.level))
        .and(" ")
        .with(Style::Bold, tunnel)
        .and(&line.message)])
}
