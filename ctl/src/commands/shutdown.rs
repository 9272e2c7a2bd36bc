//! `tunnelctl shutdown`: stops the daemon.

use std::time::Duration;

use tunneld_proto::message::method;

use crate::daemon::Context;
use crate::exit::{Exit, TIMED_OUT};

/// How long the daemon may take to close its tunnels and exit.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Stops the daemon and returns when it has closed the connection; exit 6 after [`STOP_TIMEOUT`].
pub(crate) async fn run(context: &Context) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let pid = client.welcome().pid;
    let _: serde_json::Value = client
        .call(method::SHUTDOWN, &serde_json::Value::Null)
        .await?;
    // The reply only confirms the request; the closed connection shows that the daemon has gone.
    let closed = async { while let Ok(Some(_)) = client.next().await {} };
    if tokio::time::timeout(STOP_TIMEOUT, closed).await.is_err() {
        return Err(
            Exit::new(TIMED_OUT, format!("the daemon (pid {pid}) has not stopped")).hint(format!(
                "see: tunnelctl logs; or end the process: kill {pid}"
            )),
        );
    }
    context.ui.info("the daemon has stopped");
    Ok(())
}
