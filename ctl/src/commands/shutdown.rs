//! `shutdown`: stops the daemon.

use std::time::Duration;

use tunneld_proto::message::method;

use crate::daemon::Context;
use crate::exit::{Exit, TIMED_OUT};

/// How long the daemon may take to stop.
const STOP: Duration = Duration::from_secs(15);

/// Runs the command: done when the daemon has closed the connection.
pub(crate) async fn run(context: &Context) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let pid = client.welcome().pid;
    let _: serde_json::Value = client
        .call(method::SHUTDOWN, &serde_json::Value::Null)
        .await?;
    let closed = async { while let Ok(Some(_)) = client.next().await {} };
    if tokio::time::timeout(STOP, closed).await.is_err() {
        return Err(
            Exit::new(TIMED_OUT, format!("the daemon (pid {pid}) has not stopped"))
                .hint("see its log, or end it by its pid"),
        );
    }
    context.ui.say("the daemon has stopped");
    Ok(())
}
