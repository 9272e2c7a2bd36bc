//! Flow control (RFC 4254 §5.2): what the peer may still send.
//!
//! Credit is given when bytes are consumed, never when they arrive. The target grows with the bandwidth-delay
//! product: the rate at which this channel's reader takes bytes, times the session's least round trip. The least
//! one, because a round trip measured beside bulk data holds the server's own queue and would grow without end.
//! On a long line half a window that comes in one train tells the rate before the round trip is over.

use std::time::{Duration, Instant};

/// The shortest stretch over which a rate is measured.
const STRETCH: Duration = Duration::from_millis(5);
/// A stretch longer than this held a pause, and says nothing about the line.
const PAUSE: Duration = Duration::from_secs(5);
/// After so long without consumption the target falls back.
const IDLE: Duration = Duration::from_secs(10);

/// As much credit is always worth a message: servers read that much from the target at once and keep it.
const LUMP: u32 = 256 * 1024;

/// A channel starts with this part of what is left for all of them.
const SHARE: u64 = 16;
/// And with this much, however many there are: two messages.
const LEAST: u32 = 64 * 1024;

/// Bounds of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What a channel starts with.
    pub initial: u32,
    /// What it grows to at most.
    pub max: u32,
    /// What all channels of a session are given to start with; when it is nearly used up they start small.
    pub together: u64,
}

impl Limits {
    /// What a channel that would start with `wish` starts with beside others that have `given` between them.
    pub(crate) fn start(&self, wish: u32, given: u64) -> u32 {
        let share = self.together.saturating_sub(given) / SHARE;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        wish.min(share.max(LEAST))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            initial: 2 << 20,
            max: 16 << 20,
            together: 192 << 20,
        }
    }
}

/// The window we give.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    limits: Limits,
    /// What it falls back to.
    rest: u32,
    target: u32,
    /// What the peer may still send.
    open: u32,
    /// What it has sent and nobody has consumed.
    held: u32,
    stretch: Option<Stretch>,
}

/// What was consumed since.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    since: Instant,
    bytes: u64,
    /// The most that waited for the reader meanwhile.
    lag: u32,
}

impl Stretch {
    fn new(since: Instant) -> Self {
        Self {
            since,
            bytes: 0,
            lag: 0,
        }
    }
}

impl ReceiveWindow {
    /// A window as announced when the channel opens.
    pub(crate) fn new(limits: Limits, start: u32) -> Self {
        Self {
            limits,
            rest: start.min(limits.initial),
            target: start,
            open: start,
            held: 0,
            stretch: None,
        }
    }

    /// Books what came in; `false` where it is more than the window holds.
    #[must_use]
    pub(crate) fn receive(&mut self, len: usize) -> bool {
        let Some(len) = u32::try_from(len).ok().filter(|len| *len <= self.open) else {
            return false;
        };
        self.open -= len;
        self.held += len;
        true
    }

    /// Books what was consumed.
    pub(crate) fn consume(&mut self, now: Instant, len: usize, rtt: Option<Duration>) {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(self.held);
        let lag = self.held;
        self.held -= len;
        let Some(stretch) = &mut self.stretch else {
            self.stretch = Some(Stretch::new(now));
            return;
        };
        stretch.bytes += u64::from(len);
        stretch.lag = stretch.lag.max(lag);
        let Stretch { since, bytes, lag } = *stretch;
        let elapsed = now.saturating_duration_since(since);
        if elapsed > IDLE {
            self.target = self.rest;
        }
        match rtt {
            Some(rtt) if elapsed >= rtt.max(STRETCH) => {
                self.stretch = Some(Stretch::new(now));
                if elapsed < PAUSE.max(rtt * 2) {
                    // Twice the product leaves room to find a faster line.
                    self.grow(bytes * 2, elapsed, rtt);
                }
            }
            // A reader that lagged took what had waited: that tells nothing of the line.
            Some(rtt) if bytes >= u64::from(self.target / 2) && lag <= self.target / 2 => {
                self.grow(bytes, elapsed.max(STRETCH), rtt);
            }
            _ if elapsed > PAUSE => self.stretch = Some(Stretch::new(now)),
            _ => {}
        }
    }

    fn grow(&mut self, bytes: u64, elapsed: Duration, rtt: Duration) {
        let product = u128::from(bytes) * rtt.as_nanos() / elapsed.as_nanos().max(1);
        let wish = u32::try_from(product).unwrap_or(u32::MAX);
        if wish > self.target {
            self.target = wish.min(self.limits.max).max(self.target);
        }
    }

    /// The credit to give now, if it is worth a message.
    pub(crate) fn credit(&mut self) -> Option<u32> {
        let due = self.target.saturating_sub(self.open + self.held);
        if due == 0 || due < (self.target / 8).min(LUMP) {
            return None;
        }
        self.open += due;
        Some(due)
    }

    /// What the peer may still send.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    /// What it would be, were nothing under way.
    pub(crate) fn target(&self) -> u32 {
        self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// Plays a line of `rate` bytes/s and `rtt` for `seconds`; the target at the end.
    fn play(rate: u64, rtt: Duration, seconds: u64) -> u32 {
        let mut window = ReceiveWindow::new(Limits::default(), 2 << 20);
        let mut now = start();
        let end = now + Duration::from_secs(seconds);
        while now < end {
            // One round trip: the peer sends what the window and the line allow.
            let line = (rate as f64 * rtt.as_secs_f64()) as u64;
            let mut left = line.min(u64::from(window.open()));
            let packets = left.div_ceil(32768).max(1);
            for _ in 0..packets {
                let n = left.min(32768);
                assert!(window.receive(n as usize));
                now += rtt / packets as u32;
                window.consume(now, n as usize, Some(rtt));
                let _ = window.credit();
                left -= n;
            }
        }
        window.target()
    }

    #[test]
    fn a_long_fat_line_grows_the_window_to_the_cap() {
        assert_eq!(play(1_000_000_000, Duration::from_millis(100), 3), 16 << 20);
    }

    #[test]
    fn a_train_on_a_long_fat_line_tells_its_rate() {
        let mut window = ReceiveWindow::new(Limits::default(), 2 << 20);
        let mut now = start();
        for _ in 0..48 {
            assert!(window.receive(32768));
            window.consume(now, 32768, Some(Duration::from_millis(100)));
            now += Duration::from_micros(300);
        }
        assert!(window.target() > 9 << 20, "{}", window.target());
    }

    #[test]
    fn what_waited_for_its_reader_tells_nothing() {
        let mut window = ReceiveWindow::new(Limits::default(), 2 << 20);
        let now = start();
        assert!(window.receive(2 << 20));
        for _ in 0..64 {
            window.consume(now, 32768, Some(Duration::from_millis(100)));
        }
        assert_eq!(window.target(), 2 << 20);
    }

    #[test]
    fn a_short_line_leaves_it_alone() {
        assert_eq!(play(1_000_000_000, Duration::from_micros(200), 1), 2 << 20);
    }

    #[test]
    fn a_slow_long_line_leaves_it_alone() {
        assert_eq!(play(1_000_000, Duration::from_millis(100), 5), 2 << 20);
    }

    #[test]
    fn a_pause_takes_the_growth_back() {
        let mut window = ReceiveWindow::new(Limits::default(), 2 << 20);
        window.target = 16 << 20;
        let now = start();
        window.consume(now, 0, None);
        window.consume(now + Duration::from_secs(60), 0, None);
        assert_eq!(window.target(), 2 << 20);
        assert_eq!(window.credit(), None);
    }

    #[test]
    fn no_credit_without_consumption() {
        let mut window = ReceiveWindow::new(Limits::default(), 2 << 20);
        assert!(window.receive(2 << 20));
        assert_eq!(window.credit(), None);
        assert!(!window.receive(1));
    }
}
