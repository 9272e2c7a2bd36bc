//! Decides how far a tunnel has come since a command asked for it: up, still on its way, or failed for good.

use jiff::Timestamp;
use tunneld_proto::status::{LastError, Prompt, State, TunnelStatus};

/// How far a tunnel has come since the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress<'a> {
    /// Still connecting or waiting for the next attempt.
    Pending,
    /// The tunnel waits for an answer to this prompt.
    NeedsInput(&'a Prompt),
    /// Up, degraded, or idle for an on-demand tunnel.
    Up,
    /// Failed in a way that time alone will not fix; `None` if the daemon gave no reason.
    Failed(Option<&'a LastError>),
    /// Failed before the command. The command makes a new attempt, whose outcome follows soon.
    FailedBefore,
    /// Stopped, by another client unless the command has only just been sent.
    Stopped,
}

/// Returns the progress of `tunnel` since the command at `begun`. With `fresh` (`restart`), only a session that is
/// younger than the command counts as up.
pub(crate) fn progress(tunnel: &TunnelStatus, begun: Timestamp, fresh: bool) -> Progress<'_> {
    let error = tunnel.last_error.as_ref().filter(|error| error.at >= begun);
    match tunnel.state {
        State::Up | State::Degraded => match &tunnel.session {
            Some(session) if fresh && session.since < begun => Progress::Pending,
            _ => Progress::Up,
        },
        State::Idle => Progress::Up,
        State::NeedsInput => match &tunnel.prompt {
            Some(prompt) => Progress::NeedsInput(prompt),
            None => Progress::Pending,
        },
        State::Failed if error.is_some() || tunnel.last_error.is_none() => Progress::Failed(error),
        State::Failed => Progress::FailedBefore,
        // The daemon retries these in the background, but the user has to act before a retry can succeed.
        State::Waiting | State::Connecting => match error {
            Some(error) if error.ends_wait => Progress::Failed(Some(error)),
            _ => Progress::Pending,
        },
        State::Stopped => Progress::Stopped,
        State::Unknown => Progress::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;
    use jiff::ToSpan as _;

    fn with_error(state: State, kind: &str, at: Timestamp) -> TunnelStatus {
        TunnelStatus {
            last_error: Some(sample::error(kind, at)),
            ..sample::tunnel("db", state)
        }
    }

    #[test]
    fn up_degraded_and_idle_are_up() {
        let now = Timestamp::now();
        for state in [State::Up, State::Degraded, State::Idle] {
            assert_eq!(
                progress(&sample::tunnel("db", state), now, false),
                Progress::Up
            );
        }
        for state in [State::Connecting, State::Waiting, State::Unknown] {
            assert_eq!(
                progress(&sample::tunnel("db", state), now, false),
                Progress::Pending
            );
        }
    }

    #[test]
    fn network_errors_are_waited_for_and_refusals_are_not() {
        let now = Timestamp::now();
        for kind in ["connect_refused", "resolve", "dead_peer", "a_new_kind"] {
            assert_eq!(
                progress(&with_error(State::Waiting, kind, now), now, false),
                Progress::Pending
            );
        }
        for kind in ["auth_refused", "command", "bind_failed"] {
            let tunnel = with_error(State::Waiting, kind, now);
            assert!(
                matches!(progress(&tunnel, now, false), Progress::Failed(Some(_))),
                "{kind}"
            );
        }
        let tunnel = with_error(State::Failed, "host_key_changed", now);
        assert!(matches!(
            progress(&tunnel, now, false),
            Progress::Failed(Some(_))
        ));
    }

    #[test]
    fn a_kind_that_is_newer_than_tunnelctl_ends_the_wait_if_the_daemon_says_so() {
        let now = Timestamp::now();
        let mut tunnel = with_error(State::Waiting, "a_new_kind", now);
        assert_eq!(progress(&tunnel, now, false), Progress::Pending);
        tunnel.last_error.as_mut().unwrap().ends_wait = true;
        assert!(matches!(
            progress(&tunnel, now, false),
            Progress::Failed(Some(_))
        ));
    }

    #[test]
    fn a_failure_from_before_the_command_decides_nothing() {
        let now = Timestamp::now();
        let before = now - 1.second();
        assert_eq!(
            progress(
                &with_error(State::Waiting, "auth_refused", before),
                now,
                false
            ),
            Progress::Pending
        );
        assert_eq!(
            progress(&with_error(State::Failed, "config", before), now, false),
            Progress::FailedBefore
        );
    }

    #[test]
    fn a_restart_needs_a_new_session() {
        let now = Timestamp::now();
        let up = |since| TunnelStatus {
            session: Some(sample::session(since)),
            ..sample::tunnel("db", State::Up)
        };
        assert_eq!(
            progress(&up(now - 1.second()), now, true),
            Progress::Pending
        );
        assert_eq!(progress(&up(now - 1.second()), now, false), Progress::Up);
        assert_eq!(progress(&up(now), now, true), Progress::Up);
    }
}
