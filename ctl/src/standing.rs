//! Whether a tunnel that was told to come up has done so, or will not by itself.

use jiff::Timestamp;
use tunneld_proto::status::{LastError, Prompt, State, TunnelStatus};

/// How far a tunnel has come since the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// On its way.
    Coming,
    /// Waits for an answer.
    Asking(&'a Prompt),
    /// Done.
    Up,
    /// Time alone will not mend it.
    Failed(Option<&'a LastError>),
    /// Failed before the command; it will tell soon whether that still holds.
    FailedBefore,
    /// Stopped by someone else meanwhile.
    Stopped,
}

/// Refused logins, absent agents, servers too old and failing forwards: retried for ever, and yet hopeless without a
/// person.
const HOPELESS: &[&str] = &[
    "auth_refused",
    "agent",
    "no_common_algorithm",
    "command",
    "forward",
    "bind_failed",
    "remote_forward_refused",
];

/// How `tunnel` stands, seen from a command given at `begun`; `anew` wants a session younger than that.
pub(crate) fn standing(tunnel: &TunnelStatus, begun: Timestamp, anew: bool) -> Standing<'_> {
    let fresh = tunnel.last_error.as_ref().filter(|error| error.at >= begun);
    match tunnel.state {
        State::Up | State::Degraded => match &tunnel.session {
            Some(session) if anew && session.since < begun => Standing::Coming,
            _ => Standing::Up,
        },
        State::Idle => Standing::Up,
        State::NeedsInput => match &tunnel.prompt {
            Some(prompt) => Standing::Asking(prompt),
            None => Standing::Coming,
        },
        State::Failed if fresh.is_some() || tunnel.last_error.is_none() => Standing::Failed(fresh),
        State::Failed => Standing::FailedBefore,
        State::Waiting | State::Connecting => match fresh {
            Some(error) if HOPELESS.contains(&error.kind.as_str()) => Standing::Failed(Some(error)),
            _ => Standing::Coming,
        },
        State::Stopped => Standing::Stopped,
        State::Unknown => Standing::Coming,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sample;
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
                standing(&sample::tunnel("db", state), now, false),
                Standing::Up
            );
        }
        for state in [State::Connecting, State::Waiting, State::Unknown] {
            assert_eq!(
                standing(&sample::tunnel("db", state), now, false),
                Standing::Coming
            );
        }
    }

    #[test]
    fn network_troubles_are_waited_for_and_refusals_are_not() {
        let now = Timestamp::now();
        for kind in ["connect_refused", "resolve", "dead_peer", "a_new_kind"] {
            assert_eq!(
                standing(&with_error(State::Waiting, kind, now), now, false),
                Standing::Coming
            );
        }
        for kind in HOPELESS {
            let tunnel = with_error(State::Waiting, kind, now);
            assert!(
                matches!(standing(&tunnel, now, false), Standing::Failed(Some(_))),
                "{kind}"
            );
        }
        let tunnel = with_error(State::Failed, "host_key_changed", now);
        assert!(matches!(
            standing(&tunnel, now, false),
            Standing::Failed(Some(_))
        ));
    }

    #[test]
    fn what_failed_before_the_command_says_nothing_yet() {
        let now = Timestamp::now();
        let before = now - 1.second();
        assert_eq!(
            standing(
                &with_error(State::Waiting, "auth_refused", before),
                now,
                false
            ),
            Standing::Coming
        );
        assert_eq!(
            standing(&with_error(State::Failed, "config", before), now, false),
            Standing::FailedBefore
        );
    }

    #[test]
    fn a_restart_wants_a_new_session() {
        let now = Timestamp::now();
        let up = |since| TunnelStatus {
            session: Some(sample::session(since)),
            ..sample::tunnel("db", State::Up)
        };
        assert_eq!(standing(&up(now - 1.second()), now, true), Standing::Coming);
        assert_eq!(standing(&up(now - 1.second()), now, false), Standing::Up);
        assert_eq!(standing(&up(now), now, true), Standing::Up);
    }
}
