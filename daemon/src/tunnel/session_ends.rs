//! Recognizes sessions that end again and again in the same way, for a note in the status.
//!
//! A server that closes idle connections, or that answers no keepalive, costs a login every few seconds for as long as
//! the tunnel runs. Each single end looks like any other lost connection.

use std::time::Duration;

use crate::failure::FailureKind;

/// Ends in a row that make a pattern.
const PATTERN: usize = 3;
/// A session that lived longer was not ended by a timer of the server that is too short.
const LONGEST: Duration = Duration::from_secs(3600);
/// A shorter one did not end by a timer.
const SHORTEST: Duration = Duration::from_secs(2);

/// The last sessions that ended in the same way.
#[derive(Debug, Default)]
pub(super) struct SessionEnds {
    cause: Option<FailureKind>,
    /// How long each of them was up, at most [`PATTERN`].
    uptimes: Vec<Duration>,
}

impl SessionEnds {
    /// Records the end of a session that was up for `uptime`.
    pub(super) fn record(&mut self, cause: &FailureKind, uptime: Duration) {
        let is_same = self.cause.as_ref() == Some(cause)
            && self.uptimes.iter().all(|other| is_similar(*other, uptime));
        if !is_same {
            self.uptimes.clear();
            self.cause = Some(cause.clone());
        }
        if self.uptimes.len() == PATTERN {
            self.uptimes.remove(0);
        }
        self.uptimes.push(uptime);
    }

    /// Returns what the last ends look like and what helps. `None` unless there is a pattern.
    pub(super) fn note(&self) -> Option<String> {
        let last = *self.uptimes.last()?;
        if self.uptimes.len() < PATTERN || !(SHORTEST..LONGEST).contains(&last) {
            return None;
        }
        let seconds = last.as_secs();
        match self.cause.as_ref()? {
            FailureKind::Disconnected => Some(format!(
                "the server ended each of the last {PATTERN} sessions after about {seconds} s: it looks like \
                 UnusedConnectionTimeout, ChannelTimeout or ClientAliveInterval in its sshd_config, or a firewall's limit \
                 for idle connections; ask for a longer limit"
            )),
            FailureKind::DeadPeer => Some(format!(
                "each of the last {PATTERN} sessions was silent to the end, after about {seconds} s: the server may not \
                 answer keepalives; if ssh stays connected to it, set server_alive_interval = 0, and TCP's own keepalive \
                 detects a dead connection"
            )),
            _ => None,
        }
    }
}

/// Whether two durations differ by a fifth at most. Timers of servers are checked at intervals.
fn is_similar(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= one.max(other) / 5 + Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ends: &[(FailureKind, u64)]) -> Option<String> {
        let mut all = SessionEnds::default();
        for (cause, seconds) in ends {
            all.record(cause, Duration::from_secs(*seconds));
        }
        all.note()
    }

    #[test]
    fn three_similar_ends_are_a_pattern() {
        use FailureKind::{DeadPeer, Disconnected, NetworkChanged};
        let idle = after(&[(Disconnected, 31), (Disconnected, 30), (Disconnected, 33)]);
        assert!(idle.unwrap().contains("after about 33 s"));
        let silent = after(&[(DeadPeer, 45), (DeadPeer, 45), (DeadPeer, 46)]);
        assert!(silent.unwrap().contains("server_alive_interval = 0"));
        for none in [
            vec![(Disconnected, 30), (Disconnected, 30)],
            vec![(Disconnected, 30), (Disconnected, 300), (Disconnected, 30)],
            vec![(Disconnected, 30), (DeadPeer, 30), (Disconnected, 30)],
            vec![(Disconnected, 0), (Disconnected, 0), (Disconnected, 1)],
            vec![
                (Disconnected, 7200),
                (Disconnected, 7200),
                (Disconnected, 7200),
            ],
            vec![
                (NetworkChanged, 30),
                (NetworkChanged, 30),
                (NetworkChanged, 30),
            ],
        ] {
            assert_eq!(after(&none), None, "{none:?}");
        }
    }
}
