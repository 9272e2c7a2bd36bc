//! The last lines of every tunnel, for `log.tail` on every system alike.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;
use tunneld_proto::message::LogLine;

/// Lines kept for each tunnel, and as many of the daemon's own.
const KEPT: usize = 1000;
/// Tunnels of which lines are kept; names of removed ones make room, the longest silent first.
const TUNNELS: usize = 256;
/// Coming lines that a follower may lag behind.
const FEED: usize = 1024;

/// The last lines, and the feed of the coming ones.
pub struct Ring {
    // Held for a push or a copy, never across an await.
    lines: Mutex<Lines>,
    feed: broadcast::Sender<Arc<LogLine>>,
}

#[derive(Default)]
struct Lines {
    count: u64,
    of: HashMap<Option<String>, VecDeque<(u64, Arc<LogLine>)>>,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            lines: Mutex::default(),
            feed: broadcast::Sender::new(FEED),
        }
    }
}

impl Ring {
    /// Keeps one more line.
    pub(super) fn push(&self, line: Arc<LogLine>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.count += 1;
        let number = lines.count;
        if lines.of.len() >= TUNNELS && !lines.of.contains_key(&line.tunnel) {
            lines.forget_the_longest_silent();
        }
        let of = lines.of.entry(line.tunnel.clone()).or_default();
        if of.len() >= KEPT {
            of.pop_front();
        }
        of.push_back((number, line.clone()));
        // Sent under the lock, so that a follower misses none and sees none twice. No follower is no fault.
        let _ = self.feed.send(line);
    }

    /// The kept lines, of one tunnel or of all, oldest first.
    pub fn tail(&self, tunnel: Option<&str>, since: Option<Timestamp>) -> Vec<LogLine> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.tail(tunnel, since)
    }

    /// The kept lines, and the feed that goes on exactly after them.
    pub fn follow(
        &self,
        tunnel: Option<&str>,
        since: Option<Timestamp>,
    ) -> (Vec<LogLine>, broadcast::Receiver<Arc<LogLine>>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.tail(tunnel, since), self.feed.subscribe())
    }
}

impl Lines {
    fn tail(&self, tunnel: Option<&str>, since: Option<Timestamp>) -> Vec<LogLine> {
        let mut found: Vec<_> = self
            .of
            .iter()
            .filter(|(of, _)| tunnel.is_none() || of.as_deref() == tunnel)
            .flat_map(|(_, lines)| lines)
            .filter(|(_, line)| since.is_none_or(|since| line.at >= since))
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found
            .into_iter()
            .map(|(_, line)| LogLine::clone(line))
            .collect()
    }

    fn forget_the_longest_silent(&mut self) {
        let silent = self
            .of
            .iter()
            .filter(|(of, _)| of.is_some())
            .min_by_key(|(_, lines)| lines.back().map(|(number, _)| *number))
            .map(|(of, _)| of.clone());
        if let Some(silent) = silent {
            self.of.remove(&silent);
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
    fn a_talkative_tunnel_does_not_push_out_the_others() {
        let ring = Ring::default();
        ring.push(line(Some("quiet"), "once"));
        for number in 0..KEPT + 5 {
            ring.push(line(Some("loud"), &number.to_string()));
        }
        assert_eq!(ring.tail(Some("quiet"), None).len(), 1);
        let loud = ring.tail(Some("loud"), None);
        assert_eq!(loud.len(), KEPT);
        assert_eq!(loud[0].message, "5");
        let all = ring.tail(None, None);
        assert_eq!(all[0].message, "once");
    }

    #[test]
    fn a_follower_goes_on_where_the_tail_ends() {
        let ring = Ring::default();
        ring.push(line(None, "one"));
        let (tail, mut feed) = ring.follow(None, None);
        ring.push(line(None, "two"));
        assert_eq!(tail.len(), 1);
        assert_eq!(feed.try_recv().unwrap().message, "two");
    }

    #[test]
    fn the_number_of_tunnels_is_bounded() {
        let ring = Ring::default();
        for number in 0..TUNNELS + 10 {
            ring.push(line(Some(&format!("t{number}")), "hello"));
        }
        assert_eq!(ring.tail(None, None).len(), TUNNELS);
        assert!(ring.tail(Some("t0"), None).is_empty());
    }
}
