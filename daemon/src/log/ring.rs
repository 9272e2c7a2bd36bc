//! The most recent log lines of every tunnel, kept in memory for `log.tail`, so that it works the same whether the
//! log goes to the journal, a file or standard error.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;
use tunneld_proto::message::LogLine;

/// Lines kept for each tunnel. The lines that concern no tunnel have a queue of the same length.
const LINES_PER_TUNNEL: usize = 1000;
/// Number of queues. A new one replaces that of the tunnel that has been silent for longest, so that names of removed
/// tunnels do not add up.
const MAX_QUEUES: usize = 256;
/// Lines that a follower may lag behind before it loses some.
const FEED_LENGTH: usize = 1024;

/// Bounded history of the log, and a feed of the lines that are added to it.
pub struct Ring {
    // Held for a push or a copy, never across an await.
    history: Mutex<LogHistory>,
    feed: broadcast::Sender<Arc<LogLine>>,
}

#[derive(Default)]
struct LogHistory {
    /// Number of lines ever pushed; numbers the lines, to merge the queues in the order of their arrival.
    count: u64,
    /// Queue of each tunnel, by name; `None` is the queue of lines that concern no tunnel.
    queues: HashMap<Option<String>, VecDeque<(u64, Arc<LogLine>)>>,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            history: Mutex::default(),
            feed: broadcast::Sender::new(FEED_LENGTH),
        }
    }
}

impl Ring {
    /// Appends a line and sends it to all followers.
    pub(super) fn push(&self, line: Arc<LogLine>) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.count += 1;
        let number = history.count;
        if history.queues.len() >= MAX_QUEUES && !history.queues.contains_key(&line.tunnel) {
            history.remove_longest_silent();
        }
        let queue = history.queues.entry(line.tunnel.clone()).or_default();
        if queue.len() >= LINES_PER_TUNNEL {
            queue.pop_front();
        }
        queue.push_back((number, line.clone()));
        // Sent under the lock, so that a new follower neither misses this line nor gets it twice. The send fails if
        // without a follower, which is the normal case.
        let _ = self.feed.send(line);
    }

    /// Returns the kept lines of `tunnel`, or of all if it is `None`, that are not older than `since`; oldest first.
    pub fn tail(&self, tunnel: Option<&str>, since: Option<Timestamp>) -> Vec<LogLine> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.tail(tunnel, since)
    }

    /// As [`Ring::tail`], with a feed that starts exactly after the returned lines. The feed carries the lines of all
    /// tunnels.
    pub fn follow(
        &self,
        tunnel: Option<&str>,
        since: Option<Timestamp>,
    ) -> (Vec<LogLine>, broadcast::Receiver<Arc<LogLine>>) {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        (history.tail(tunnel, since), self.feed.subscribe())
    }
}

impl LogHistory {
    fn tail(&self, tunnel: Option<&str>, since: Option<Timestamp>) -> Vec<LogLine> {
        let mut found: Vec<_> = self
            .queues
            .iter()
            .filter(|(name, _)| tunnel.is_none() || name.as_deref() == tunnel)
            .flat_map(|(_, lines)| lines)
            .filter(|(_, line)| since.is_none_or(|since| line.at >= since))
            .collect();
        // By number and not by time: the wall clock may be set back.
        found.sort_by_key(|(number, _)| *number);
        found
            .into_iter()
            .map(|(_, line)| LogLine::clone(line))
            .collect()
    }

    /// Removes the queue whose last line is oldest. The daemon's own queue is never removed.
    fn remove_longest_silent(&mut self) {
        let silent = self
            .queues
            .iter()
            .filter(|(name, _)| name.is_some())
            .min_by_key(|(_, lines)| lines.back().map(|(number, _)| *number))
            .map(|(name, _)| name.clone());
        if let Some(name) = silent {
            self.queues.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tunnel: Option<&str>, message: &str) -> Arc<LogLine> {
        Arc::new(LogLine {
            at: Timestamp::now(),
            level: "info".into(),
            tunnel: tunnel.map(str::to_owned),
            message: message.into(),
        })
    }

    #[test]
    fn a_tunnel_with_many_lines_does_not_displace_the_lines_of_others() {
        let ring = Ring::default();
        ring.push(line(Some("quiet"), "once"));
        for number in 0..LINES_PER_TUNNEL + 5 {
            ring.push(line(Some("loud"), &number.to_string()));
        }
        assert_eq!(ring.tail(Some("quiet"), None).len(), 1);
        let loud = ring.tail(Some("loud"), None);
        assert_eq!(loud.len(), LINES_PER_TUNNEL);
        assert_eq!(loud[0].message, "5");
        let all = ring.tail(None, None);
        assert_eq!(all[0].message, "once");
    }

    #[test]
    fn the_feed_starts_where_the_tail_ends() {
        let ring = Ring::default();
        ring.push(line(None, "one"));
        let (tail, mut feed) = ring.follow(None, None);
        ring.push(line(None, "two"));
        assert_eq!(tail.len(), 1);
        assert_eq!(feed.try_recv().unwrap().message, "two");
    }

    #[test]
    fn the_number_of_queues_is_bounded() {
        let ring = Ring::default();
        for number in 0..MAX_QUEUES + 10 {
            ring.push(line(Some(&format!("t{number}")), "hello"));
        }
        assert_eq!(ring.tail(None, None).len(), MAX_QUEUES);
        assert!(ring.tail(Some("t0"), None).is_empty());
    }
}
