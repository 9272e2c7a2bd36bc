//! Flow control (RFC 4254 §5.2): what we may still send.
//!
//! A window that is far larger than the line needs is a queue in the server's socket, and everyone's small
//! messages stand in it. So no more is kept under way than a few round trips of what the server consumes, found
//! from the credit it gives; on a short line about one while another channel has small things to say, for large
//! batches are cheaper and small ones quicker. A server that gives credit by some other rule shows itself by giving none: then the
//! channel uses all its window again, as it does from the start.

use std::time::{Duration, Instant};

/// As much is under way at least, beside the round trips.
const FLOOR: u32 = 256 * 1024;
/// As many round trips' worth is under way.
const TRIPS: u32 = 3;
/// As much at least while others have small things to say: OpenSSH gives credit for four packets at a time.
const TIGHT: u32 = 128 * 1024;
/// The shortest stretch over which a rate is measured.
const STRETCH: Duration = Duration::from_millis(5);
/// So many stretches are measured before the first judgement.
const STRETCHES: u32 = 2;
/// A server that has given no credit for so long goes by another rule, or its target stands still.
const PATIENCE: Duration = Duration::from_millis(200);

/// A write of no more than this is somebody's who waits for an answer: it does not wait behind bulk.
pub(crate) const SMALL: usize = 4 * 1024;
/// A channel with as much under way does bulk itself; its small writes are the ends of larger ones.
const BULK: u32 = 64 * 1024;
/// On a line shorter than this bulk keeps out of the way of small writes; a longer one is left to TCP.
const SHORT: Duration = Duration::from_millis(1);
/// So many small writes in a row show a conversation. Fewer are how any connection begins.
const SERIES: u32 = 16;
/// One later than this after the last begins a new series.
const BRISK: Duration = Duration::from_millis(500);

/// The series of small writes under way.
#[derive(Debug, Default)]
pub(crate) struct Small {
    count: u32,
    /// The channel that wrote last, and when.
    last: Option<(u32, Instant)>,
}

impl Small {
    /// Notes a channel's write, if it is one.
    pub(crate) fn note(&mut self, channel: u32, len: usize, send: &SendWindow, now: Instant) {
        if len <= SMALL && send.under_way < BULK {
            self.count = if self.is_fresh(now) {
                self.count + 1
            } else {
                1
            }
            .min(SERIES);
            self.last = Some((channel, now));
        }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.last
            .is_some_and(|(_, at)| now.saturating_duration_since(at) < BRISK)
    }

    /// Whether a channel's bulk has to keep out of another one's way.
    pub(crate) fn is_beside(&self, channel: u32, now: Instant, rtt: Option<Duration>) -> bool {
        rtt.is_some_and(|rtt| rtt < SHORT)
            && self.count == SERIES
            && self.is_fresh(now)
            && self.last.is_some_and(|(other, _)| other != channel)
    }
}

/// How much is kept under way.
#[derive(Debug)]
enum Pace {
    /// All of the window, while the rate is measured.
    Measuring { stretches: u32 },
    /// A few times what the server consumes in a round trip.
    Kept { trip: u32, waits: Option<Instant> },
    /// All of the window, for good.
    Free,
}

/// The window we are given.
#[derive(Debug)]
pub(crate) struct SendWindow {
    open: u32,
    packet: u32,
    under_way: u32,
    stretch: Option<(Instant, u64)>,
    pace: Pace,
    tight: bool,
}

impl SendWindow {
    /// A window as the peer announced it.
    pub(crate) fn new(open: u32, packet: u32) -> Self {
        Self {
            open,
            packet,
            under_way: 0,
            stretch: None,
            pace: Pace::Measuring { stretches: 0 },
            tight: false,
        }
    }

    /// Whether others have small things to say.
    pub(crate) fn tighten(&mut self, tight: bool) {
        self.tight = tight;
    }

    /// How much of `len` bytes may go in one packet now.
    pub(crate) fn allows(&self, len: usize) -> usize {
        let room = match self.pace {
            Pace::Kept { trip, .. } => self
                .open
                .min(self.bound(trip).saturating_sub(self.under_way)),
            Pace::Measuring { .. } | Pace::Free => self.open,
        };
        len.min(room as usize).min(self.packet as usize)
    }

    fn bound(&self, trip: u32) -> u32 {
        if self.tight {
            return trip.saturating_add(trip / 4).max(TIGHT);
        }
        trip.saturating_mul(TRIPS).saturating_add(FLOOR)
    }

    /// Books what was sent.
    pub(crate) fn spend(&mut self, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.open = self.open.saturating_sub(len);
        self.under_way = self.under_way.saturating_add(len);
    }

    /// What was sent and not credited.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> u32 {
        self.under_way
    }

    /// Adds credit; `false` where it overflows (RFC 4254 §5.2 forbids it).
    #[must_use]
    pub(crate) fn extend(&mut self, now: Instant, credit: u32, rtt: Option<Duration>) -> bool {
        let Some(open) = self.open.checked_add(credit) else {
            return false;
        };
        self.open = open;
        self.under_way = self.under_way.saturating_sub(credit);
        if let Pace::Kept { waits, .. } = &mut self.pace {
            *waits = None;
        }
        if let Some(rtt) = rtt {
            self.measure(now, credit, rtt);
        }
        true
    }

    fn measure(&mut self, now: Instant, credit: u32, rtt: Duration) {
        let Some((since, bytes)) = self.stretch else {
            self.stretch = Some((now, 0));
            return;
        };
        let bytes = bytes + u64::from(credit);
        let elapsed = now.saturating_duration_since(since);
        if elapsed < rtt.max(STRETCH) {
            self.stretch = Some((since, bytes));
            return;
        }
        self.stretch = Some((now, 0));
        let product = u128::from(bytes) * rtt.as_nanos() / elapsed.as_nanos().max(1);
        let product = u32::try_from(product).unwrap_or(u32::MAX);
        self.pace = match self.pace {
            Pace::Free => Pace::Free,
            Pace::Measuring { stretches } if stretches < STRETCHES => Pace::Measuring {
                stretches: stretches + 1,
            },
            Pace::Measuring { .. } => Pace::Kept {
                trip: product,
                waits: None,
            },
            // Falls slowly: a stretch in which little was written says nothing about the line.
            Pace::Kept { trip, waits } => Pace::Kept {
                trip: product.max(trip - trip / 16),
                waits,
            },
        };
    }

    /// Notes that a writer waits; when the patience with the server ends, if it is its pace that is waited for.
    pub(crate) fn wait(&mut self, now: Instant, rtt: Option<Duration>) -> Option<Instant> {
        let Pace::Kept { waits, .. } = &mut self.pace else {
            return None;
        };
        if self.open == 0 {
            return None;
        }
        waits.get_or_insert(now);
        self.waits_until(rtt)
    }

    /// When the patience with the server ends, if a writer waits.
    pub(crate) fn waits_until(&self, rtt: Option<Duration>) -> Option<Instant> {
        match self.pace {
            Pace::Kept {
                waits: Some(since), ..
            } => Some(since + PATIENCE.max(rtt.unwrap_or_default() * 4)),
            _ => None,
        }
    }

    /// Whether the patience has ended: from now on all of the window is used.
    pub(crate) fn give_up(&mut self, now: Instant, rtt: Option<Duration>) -> bool {
        let ended = self.waits_until(rtt).is_some_and(|until| now >= until);
        if ended {
            self.pace = Pace::Free;
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    const WINDOW: u32 = 2 << 20;

    /// Writes all that may be written, and gives credit for `rate` bytes/s each `step`.
    fn play(rate: u64, rtt: Duration, step: Duration, tight: bool) -> u32 {
        let mut window = SendWindow::new(WINDOW, 32768);
        window.tighten(tight);
        let mut now = start();
        for _ in 0..200 {
            while window.allows(32768) > 0 {
                let some = window.allows(32768);
                window.spend(some);
            }
            now += step;
            let consumed = (rate as f64 * step.as_secs_f64()) as u32;
            let credit = consumed.min(window.under_way);
            assert!(window.extend(now, credit, Some(rtt)));
            assert!(!window.give_up(now, Some(rtt)));
        }
        while window.allows(32768) > 0 {
            let some = window.allows(32768);
            window.spend(some);
        }
        window.under_way
    }

    #[test]
    fn a_short_line_is_not_filled_with_a_queue() {
        let rtt = Duration::from_micros(300);
        let under_way = play(500_000_000, rtt, Duration::from_micros(300), false);
        assert!(under_way < 1 << 20, "{under_way}");
        assert!(under_way >= FLOOR);
    }

    #[test]
    fn small_things_beside_it_halve_the_queue() {
        let (rate, rtt) = (500_000_000, Duration::from_micros(300));
        let under_way = play(rate, rtt, rtt, true);
        assert!(under_way < play(rate, rtt, rtt, false) / 2, "{under_way}");
        assert!(under_way >= TIGHT);
    }

    #[test]
    fn a_long_line_uses_all_of_the_window() {
        let rtt = Duration::from_millis(100);
        for tight in [false, true] {
            assert_eq!(play(1_000_000_000, rtt, rtt, tight), WINDOW);
        }
    }

    #[test]
    fn a_server_that_gives_credit_by_another_rule_gets_all() {
        let rtt = Some(Duration::from_micros(300));
        let mut window = SendWindow::new(WINDOW, 32768);
        let mut now = start();
        for _ in 0..4 {
            now += Duration::from_millis(10);
            window.spend(window.allows(32768));
            assert!(window.extend(now, 32768, rtt));
        }
        while window.allows(32768) > 0 {
            let some = window.allows(32768);
            window.spend(some);
        }
        assert!(window.open > 0);
        let end = window.wait(now, rtt).unwrap();
        assert!(!window.give_up(end - Duration::from_millis(1), rtt));
        assert!(window.give_up(end, rtt));
        assert_eq!(window.allows(32768), 32768);
    }

    #[test]
    fn credit_past_the_top_is_an_offence() {
        let mut window = SendWindow::new(u32::MAX - 1, 1);
        assert!(window.extend(start(), 1, None));
        assert!(!window.extend(start(), 1, None));
    }
}
