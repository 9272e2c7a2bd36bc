//! Waits of `tunnel.up`, `tunnel.restart` and `tunnel.down`: until the named tunnels are up or down, or until one has
//! failed in a way that time alone will not fix.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::status::{Desired, LastError, State, TunnelStatus};

use crate::supervisor::Supervisor;

/// Longest wait if the client sets no `timeout_ms`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait that a client may set.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// State of a tunnel that ends the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// The tunnel has a session, or waits for demand.
    Up,
    /// The tunnel has a session that was made after the command.
    Fresh,
    /// The tunnel is stopped.
    Down,
}

/// Carries out `command` and waits until all of `names` have reached the goal, at most `limit` milliseconds.
///
/// # Errors
/// The command's error; `tunnel_failed` with the cause if one of the tunnels will not reach the goal by itself;
/// `timeout`; `tunnel_not_found` if one was removed meanwhile.
pub(super) async fn until(
    supervisor: &Supervisor,
    names: &[String],
    goal: Goal,
    limit: Option<u64>,
    command: impl Future<Output = Result<(), RpcError>>,
) -> Result<(), RpcError> {
    let begun = Timestamp::now();
    // Subscribed before the command, so that no change after it is missed.
    let (_, mut events) = supervisor.subscribe();
    command.await?;
    let limit = limit
        .map_or(DEFAULT_TIMEOUT, Duration::from_millis)
        .min(MAX_TIMEOUT);
    let reaching = async {
        // Each event only means that a status may have changed. The statuses themselves decide, so that lagging does
        // not matter.
        while !all_reached(&supervisor.statuses(), names, goal, begun)? {
            match events.recv().await {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => {
                    return Err(RpcError::new(ErrorKind::Stopping, "the daemon is stopping"));
                }
            }
        }
        Ok(())
    };
    match timeout(limit, reaching).await {
        Ok(outcome) => outcome,
        Err(_) => Err(timed_out(&supervisor.statuses(), names, goal, begun, limit)),
    }
}

/// Returns whether all tunnels have reached the goal, or the error of the first that will not reach it by itself.
fn all_reached(
    statuses: &[TunnelStatus],
    names: &[String],
    goal: Goal,
    begun: Timestamp,
) -> Result<bool, RpcError> {
    let mut all = true;
    for name in names {
        let Some(status) = statuses.iter().find(|status| status.name == *name) else {
            if goal == Goal::Down {
                continue;
            }
            let message = format!("the tunnel {name} was removed meanwhile");
            return Err(RpcError::new(ErrorKind::TunnelNotFound, message));
        };
        if has_reached(status, goal, begun) {
            continue;
        }
        if goal != Goal::Down
            && let Some(error) = terminal_failure(status, begun)
        {
            return Err(failed(name, error));
        }
        all = false;
    }
    Ok(all)
}

fn has_reached(status: &TunnelStatus, goal: Goal, begun: Timestamp) -> bool {
    // A tunnel that an earlier `down` is still closing has a session, but will lose it.
    let is_up =
        status.desired == Desired::Up && matches!(status.state, State::Up | State::Degraded);
    match goal {
        // An on-demand tunnel is idle until its first client: `up` has done all that it can.
        Goal::Up => is_up || status.state == State::Idle,
        Goal::Fresh => {
            let session = status.session.as_ref();
            is_up && session.is_some_and(|session| session.since >= begun)
        }
        Goal::Down => status.state == State::Stopped,
    }
}

/// Returns the failure that ends the wait: one since the command that time alone will not fix.
fn terminal_failure(status: &TunnelStatus, begun: Timestamp) -> Option<&LastError> {
    let error = status.last_error.as_ref()?;
    // A failure from before the command may already be fixed: the command makes a new attempt.
    let is_terminal = error.at >= begun && (status.state == State::Failed || error.ends_wait);
    is_terminal.then_some(error)
}

fn failed(name: &str, error: &LastError) -> RpcError {
    let message = format!("{name}: {}", error.message);
    let mut failed = RpcError::new(ErrorKind::TunnelFailed, message)
        .causes([error.kind.to_string(), error.message.clone()]);
    failed.data.hint.clone_from(&error.hint);
    failed
}

fn timed_out(
    statuses: &[TunnelStatus],
    names: &[String],
    goal: Goal,
    begun: Timestamp,
    limit: Duration,
) -> RpcError {
    let missing: Vec<&TunnelStatus> = statuses
        .iter()
        .filter(|status| names.contains(&status.name) && !has_reached(status, goal, begun))
        .collect();
    let states: Vec<String> = missing
        .iter()
        .map(|status| format!("{} is {}", status.name, status.state.as_str()))
        .collect();
    let goal = if goal == Goal::Down { "down" } else { "up" };
    let message = format!("not {goal} within {limit:?}: {}", states.join(", "));
    let hint = match missing.first() {
        Some(status) if status.state == State::NeedsInput => {
            "the tunnel waits for an answer; run: tunnelctl answer".to_owned()
        }
        Some(status) => format!(
            "the daemon keeps trying; run: tunnelctl logs {}",
            status.name
        ),
        None => "run: tunnelctl status".to_owned(),
    };
    let causes = missing.iter().filter_map(|status| {
        let error = status.last_error.as_ref()?;
        Some(format!("{}: {}", status.name, error.message))
    });
    RpcError::new(ErrorKind::Timeout, message)
        .hint(hint)
        .causes(causes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan as _;
    use tunneld_proto::failure::FailureKind;
    use tunneld_proto::status::SessionStatus;

    fn status(state: State) -> TunnelStatus {
        TunnelStatus {
            name: "db".into(),
            state,
            phase: None,
            since: Timestamp::now(),
            host: "h".into(),
            via: vec![],
            tags: vec![],
            proxy_for: vec![],
            proxy_user: None,
            description: None,
            desired: Desired::Up,
            attempt: 1,
            retry_at: None,
            last_error: None,
            prompt: None,
            session: None,
            reconnects: 0,
            forwards: vec![],
            notes: vec![],
        }
    }

    fn with_error(state: State, kind: &str, at: Timestamp) -> TunnelStatus {
        let kind = FailureKind::from(kind.to_owned());
        let last_error = Some(LastError::new(
            kind,
            "it happened",
            Some("do this".into()),
            at,
        ));
        TunnelStatus {
            last_error,
            ..status(state)
        }
    }

    fn check(status: TunnelStatus, goal: Goal, begun: Timestamp) -> Result<bool, RpcError> {
        all_reached(&[status], &["db".into()], goal, begun)
    }

    #[test]
    fn up_degraded_and_idle_tunnels_have_reached_up_and_others_have_not() {
        let now = Timestamp::now();
        for state in [State::Up, State::Degraded, State::Idle] {
            assert_eq!(check(status(state), Goal::Up, now), Ok(true));
        }
        for state in [
            State::Stopped,
            State::Connecting,
            State::NeedsInput,
            State::Waiting,
        ] {
            assert_eq!(check(status(state), Goal::Up, now), Ok(false));
        }
        assert_eq!(check(status(State::Stopped), Goal::Down, now), Ok(true));
        assert_eq!(check(status(State::Up), Goal::Down, now), Ok(false));
        let closing = TunnelStatus {
            desired: Desired::Down,
            ..status(State::Up)
        };
        assert_eq!(check(closing, Goal::Up, now), Ok(false));
    }

    #[test]
    fn a_restart_waits_for_a_session_made_after_it() {
        let now = Timestamp::now();
        let up = |since| TunnelStatus {
            session: Some(SessionStatus {
                since,
                server: String::new(),
                kex: String::new(),
                cipher: String::new(),
                mac: None,
                host_key: String::new(),
                auth: String::new(),
                rtt_ms: None,
                offences: 0,
            }),
            ..status(State::Up)
        };
        assert_eq!(check(up(now - 1.second()), Goal::Fresh, now), Ok(false));
        assert_eq!(check(up(now), Goal::Fresh, now), Ok(true));
    }

    #[test]
    fn a_failure_that_needs_the_user_ends_the_wait_and_its_kind_is_the_first_cause() {
        let now = Timestamp::now();
        for (state, kind) in [
            (State::Failed, "host_key_changed"),
            (State::Waiting, "auth_refused"),
            (State::Waiting, "agent"),
            (State::Waiting, "command"),
            (State::Waiting, "no_common_algorithm"),
            (State::Connecting, "forward"),
        ] {
            let error = check(with_error(state, kind, now), Goal::Up, now).unwrap_err();
            assert_eq!(error.data.kind, ErrorKind::TunnelFailed);
            assert_eq!(error.data.causes[0], kind);
            assert_eq!(error.data.hint.as_deref(), Some("do this"));
        }
        let refused = with_error(State::Waiting, "connect_refused", now);
        assert_eq!(check(refused, Goal::Up, now), Ok(false));
    }

    #[test]
    fn a_failure_before_the_command_does_not_end_the_wait() {
        let now = Timestamp::now();
        let old = with_error(State::Failed, "host_key_changed", now - 1.second());
        assert_eq!(check(old, Goal::Up, now), Ok(false));
    }
}
