//! The receive window of one channel (RFC 4254 §5.2): the bytes that the server may still send.
//!
//! Credit is given when bytes are consumed, never when they arrive. The target grows with the bandwidth-delay
//! product: the rate at which this channel's reader takes bytes, times the session's smallest round trip. The
//! smallest, because a round trip measured beside bulk data includes the server's own queue and would grow without
//! bound. On a line with a long round trip, half a window that arrives in one burst shows the rate before the round
//! trip is over.

use std::time::{Duration, Instant};

/// Shortest interval over which a rate is measured.
const MIN_INTERVAL: Duration = Duration::from_millis(5);
/// An interval longer than this contains a pause of the sender and says nothing about the line.
const MAX_INTERVAL: Duration = Duration::from_secs(5);
/// Time without consumption after which the target falls back to its initial value.
const IDLE_RESET: Duration = Duration::from_secs(10);

/// Largest credit that waits to be bundled, in bytes. OpenSSH reads this much from its target at once, so that holding
/// more credit back would stall it.
const MAX_HELD_CREDIT: u32 = 256 * 1024;

/// A new channel's window is at most one part in this many of what is left of [`WindowLimits::session_total`].
const SHARE_DIVISOR: u64 = 16;
/// Lower bound of an initial window: two packets of maximum size.
const MIN_INITIAL: u32 = 64 * 1024;

/// Bounds of the receive windows of one session, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowLimits {
    /// Initial window of a channel, in bytes; the same 2 MiB as OpenSSH's by default.
    pub initial: u32,
    /// Maximum that one window grows to, in bytes. Larger ones make OpenSSH reallocate and copy its buffers.
    pub max: u32,
    /// Total of all initial windows of a session, in bytes; new channels start small when it is nearly used up.
    pub session_total: u64,
}

impl WindowLimits {
    /// The initial window of a channel that would start with `wanted`, beside others whose windows add up to `in_use`.
    pub(super) fn initial_for(&self, wanted: u32, in_use: u64) -> u32 {
        // A part of what is left, so that no number of channels exceeds the total by much: a server that fills every
        // window of a session must not exhaust our memory.
        let share = self.session_total.saturating_sub(in_use) / SHARE_DIVISOR;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        // Never below two packets: with less, each packet would wait for credit.
        wanted.min(share.max(MIN_INITIAL))
    }
}

impl Default for WindowLimits {
    fn default() -> Self {
        Self {
            initial: 2 << 20,
            max: 16 << 20,
            session_total: 192 << 20,
        }
    }
}

/// The receive window of one channel.
#[derive(Debug)]
pub(super) struct RecvWindow {
    limits: WindowLimits,
    /// Target that the window falls back to after [`IDLE_RESET`].
    initial: u32,
    /// Window size that credit restores.
    target: u32,
    /// Bytes that the server may still send.
    available: u32,
    /// Bytes that were received and not consumed.
    unconsumed: u32,
    interval: Option<Interval>,
}

/// Consumption since a point in time.
#[derive(Debug, Clone, Copy)]
struct Interval {
    /// When the interval started: at a consumption, because before it the sender may have paused.
    since: Instant,
    consumed: u64,
    /// Largest number of unconsumed bytes in this interval.
    max_unconsumed: u32,
}

impl Interval {
    fn new(since: Instant) -> Self {
        Self {
            since,
            consumed: 0,
            max_unconsumed: 0,
        }
    }
}

impl RecvWindow {
    /// A window of `initial` bytes, as it is announced when the channel opens.
    pub(super) fn new(limits: WindowLimits, initial: u32) -> Self {
        Self {
            limits,
            // A channel may start larger than `limits.initial`, on a line that needed it before; an idle one falls back
            // all the same.
            initial: initial.min(limits.initial),
            target: initial,
            available: initial,
            unconsumed: 0,
            interval: None,
        }
    }

    /// Counts received bytes. `false` if they exceed the window.
    #[must_use]
    pub(super) fn receive(&mut self, len: usize) -> bool {
        let Some(len) = u32::try_from(len).ok().filter(|len| *len <= self.available) else {
            return false;
        };
        // Both sides count: a server that sends more breaks RFC 4254 §5.2, and this bound is what keeps our memory
        // bounded.
        self.available -= len;
        self.unconsumed += len;
        true
    }

    /// Counts consumed bytes and adapts the target.
    pub(super) fn consume(&mut self, now: Instant, len: usize, min_rtt: Option<Duration>) {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(self.unconsumed);
        // What had piled up when the reader came: much of it means that the reader is the slow side.
        let before = self.unconsumed;
        self.unconsumed -= len;
        let Some(interval) = &mut self.interval else {
            self.interval = Some(Interval::new(now));
            return;
        };
        interval.consumed += u64::from(len);
        interval.max_unconsumed = interval.max_unconsumed.max(before);
        let Interval {
            since,
            consumed,
            max_unconsumed,
        } = *interval;
        let elapsed = now.saturating_duration_since(since);
        // What the channel needed before the pause says nothing about now, and its target counts against
        // `session_total`.
        if elapsed > IDLE_RESET {
            self.target = self.initial;
        }
        match min_rtt {
            Some(rtt) if elapsed >= rtt.max(MIN_INTERVAL) => {
                self.interval = Some(Interval::new(now));
                // Twice the round trip: on a line slower than [`MAX_INTERVAL`] every interval would otherwise look like
                // a pause.
                if elapsed < MAX_INTERVAL.max(rtt * 2) {
                    // Twice the product: the measured rate is limited by the current window, so that the window must
                    // be larger for a faster line to show.
                    self.grow(consumed * 2, elapsed, rtt);
                }
            }
            // Bytes that had waited for the reader show the reader's rate, not the line's.
            Some(rtt)
                if consumed >= u64::from(self.target / 2) && max_unconsumed <= self.target / 2 =>
            {
                self.grow(consumed, elapsed.max(MIN_INTERVAL), rtt);
            }
            _ if elapsed > MAX_INTERVAL => self.interval = Some(Interval::new(now)),
            _ => {}
        }
    }

    /// Raises the target to the bandwidth-delay product of `bytes` in `elapsed`.
    fn grow(&mut self, bytes: u64, elapsed: Duration, rtt: Duration) {
        let product = u128::from(bytes) * rtt.as_nanos() / elapsed.as_nanos().max(1);
        let wanted = u32::try_from(product).unwrap_or(u32::MAX);
        if wanted > self.target {
            // Never lowered here: credit that was granted cannot be taken back (RFC 4254 §5.2).
            self.target = wanted.min(self.limits.max).max(self.target);
        }
    }

    /// Returns the credit to send now, in bytes. `None` if it is not worth a message yet.
    pub(super) fn take_credit(&mut self) -> Option<u32> {
        // Unconsumed bytes are not credited: a reader that has stopped costs one window and no more.
        let credit = self.target.saturating_sub(self.available + self.unconsumed);
        // One WINDOW_ADJUST per packet would cost a packet in our direction for each one in the server's.
        if credit == 0 || credit < (self.target / 8).min(MAX_HELD_CREDIT) {
            return None;
        }
        self.available += credit;
        Some(credit)
    }

    /// Bytes that the server may still send.
    pub(super) fn available(&self) -> u32 {
        self.available
    }

    /// Size of the window when everything received is consumed and credited.
    pub(super) fn target(&self) -> u32 {
        self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// Simulates a line of `rate` bytes/s with a round trip of `rtt` for `seconds`. Returns the target at the end.
    fn simulate(rate: u64, rtt: Duration, seconds: u64) -> u32 {
        let mut window = RecvWindow::new(WindowLimits::default(), 2 << 20);
        let mut now = start();
        let end = now + Duration::from_secs(seconds);
        while now < end {
            // One round trip: the server sends what the window and the line allow.
            let line = (rate as f64 * rtt.as_secs_f64()) as u64;
            let mut left = line.min(u64::from(window.available()));
            let packets = left.div_ceil(32768).max(1);
            for _ in 0..packets {
                let n = left.min(32768);
                assert!(window.receive(n as usize));
                now += rtt / packets as u32;
                window.consume(now, n as usize, Some(rtt));
                let _ = window.take_credit();
                left -= n;
            }
        }
        window.target()
    }

    #[test]
    fn a_fast_line_with_a_long_round_trip_grows_the_window_to_its_maximum() {
        assert_eq!(
            simulate(1_000_000_000, Duration::from_millis(100), 3),
            16 << 20
        );
    }

    #[test]
    fn a_burst_of_half_a_window_shows_the_rate_before_a_round_trip_is_over() {
        let mut window = RecvWindow::new(WindowLimits::default(), 2 << 20);
        let mut now = start();
        for _ in 0..48 {
            assert!(window.receive(32768));
            window.consume(now, 32768, Some(Duration::from_millis(100)));
            now += Duration::from_micros(300);
        }
        assert!(window.target() > 9 << 20, "{}", window.target());
    }

    #[test]
    fn bytes_that_waited_for_their_reader_do_not_grow_the_window() {
        let mut window = RecvWindow::new(WindowLimits::default(), 2 << 20);
        let now = start();
        assert!(window.receive(2 << 20));
        for _ in 0..64 {
            window.consume(now, 32768, Some(Duration::from_millis(100)));
        }
        assert_eq!(window.target(), 2 << 20);
    }

    #[test]
    fn a_short_round_trip_does_not_grow_the_window() {
        assert_eq!(
            simulate(1_000_000_000, Duration::from_micros(200), 1),
            2 << 20
        );
    }

    #[test]
    fn a_slow_line_does_not_grow_the_window() {
        assert_eq!(simulate(1_000_000, Duration::from_millis(100), 5), 2 << 20);
    }

    #[test]
    fn an_idle_channel_falls_back_to_its_initial_window() {
        let mut window = RecvWindow::new(WindowLimits::default(), 2 << 20);
        window.target = 16 << 20;
        let now = start();
        window.consume(now, 0, None);
        window.consume(now + Duration::from_secs(60), 0, None);
        assert_eq!(window.target(), 2 << 20);
        assert_eq!(window.take_credit(), None);
    }

    #[test]
    fn no_credit_without_consumption() {
        let mut window = RecvWindow::new(WindowLimits::default(), 2 << 20);
        assert!(window.receive(2 << 20));
        assert_eq!(window.take_credit(), None);
        assert!(!window.receive(1));
    }
}
