//! Waits until the configuration on disk has been read, before a call acts on it.

use std::time::Duration;

use tunneld_proto::error::RpcError;
use tunneld_proto::status::TunnelStatus;

use super::context::ControlContext;

/// How long calls wait for a changed configuration to be read. Short, because `ssh -G` may hang, and the daemon must
/// answer meanwhile.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(2);
/// The same for a call with a name that is not known yet: without the reading it can only fail.
const UNKNOWN_NAME_READ_LIMIT: Duration = Duration::from_secs(20);

/// Sees to it that the configuration as it is on disk now has been read, so that a command right after the save of a file
/// acts on the new contents.
pub(super) async fn read_changes(
    context: &ControlContext,
    names: &[String],
    limit: Duration,
) -> Result<(), RpcError> {
    // While the daemon stops, the reload task has ended. The status stays readable.
    if context.stopping.is_cancelled() {
        return Ok(());
    }
    let tunnels = context.supervisor.statuses();
    let all_known = names.iter().all(|name| contains(&tunnels, name));
    let limit = if all_known {
        limit
    } else {
        UNKNOWN_NAME_READ_LIMIT
    };
    match context.reloader.read_changes(limit).await {
        Err(_) if context.stopping.is_cancelled() => Ok(()),
        read => read,
    }
}

/// Returns whether a tunnel of this name is among them.
pub(super) fn contains(tunnels: &[TunnelStatus], name: &str) -> bool {
    tunnels.iter().any(|status| status.name == name)
}
