//! The errors with which a wait for tunnels ends.

use tunneld_proto::failure::FailureKind;
use tunneld_proto::status::{LastError, TunnelStatus};

use crate::exit::{Exit, FAILED};

/// The error for a tunnel that failed; `error` is `None` if the daemon gave no reason.
pub(in crate::commands) fn failure(tunnel: &TunnelStatus, error: Option<&LastError>) -> Exit {
    let name = &tunnel.name;
    match error {
        Some(error) => {
            let hint = error.hint.clone().unwrap_or_else(|| {
                format!("see: tunnelctl status {name}, and tunnelctl logs {name}")
            });
            let hint = match callers_agent(error) {
                Some(agent) => format!("{hint}; {agent}"),
                None => hint,
            };
            Exit::new(FAILED, format!("{name}: {}", error.message)).hint(hint)
        }
        None => {
            Exit::new(FAILED, format!("{name} failed")).hint(format!("see: tunnelctl logs {name}"))
        }
    }
}

/// Returns how to make tunneld use the agent of this shell, if it found no usable key and this shell has an agent. The
/// daemon's environment is that of the service manager or of the first `tunnelctl up`.
fn callers_agent(error: &LastError) -> Option<String> {
    if !matches!(error.kind, FailureKind::NoCredentials | FailureKind::Agent) {
        return None;
    }
    let agent = std::env::var("SSH_AUTH_SOCK").ok()?;
    Some(format!(
        "this shell has the agent {agent}; if the key is in it, set identity_agent = \"{agent}\", or give tunneld the \
         agent of your session: systemctl --user import-environment SSH_AUTH_SOCK, then restart tunneld"
    ))
}

/// The error for a tunnel that disappeared from the configuration during the wait.
pub(in crate::commands) fn removed(name: &str) -> Exit {
    Exit::new(FAILED, format!("{name} was removed during the wait"))
        .hint("check the configuration: tunnelctl check")
}

/// The error for a tunnel that another client stopped during the wait.
pub(in crate::commands) fn stopped(name: &str) -> Exit {
    Exit::new(FAILED, format!("{name} was stopped during the wait"))
        .hint(format!("start it again: tunnelctl up {name}"))
}
