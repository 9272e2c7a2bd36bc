//! The send window of one channel (RFC 4254 §5.2): the bytes that we may still send.
//!
//! A window much larger than the line needs becomes a queue in the server's socket, and every small message of the
//! session waits behind it. Bytes in flight are therefore capped at a few times the bandwidth-delay product, which is
//! measured from the credit that the server grants; at about one time while another channel is interactive on a short
//! line, because large batches are cheaper and small ones quicker. A server that grants credit by another rule shows
//! it by granting none: then the channel uses its whole window again, as it does before the first measurement.

use std::time::{Duration, Instant};

/// Bytes in flight that are always allowed, in addition to the multiple of the bandwidth-delay product.
const IN_FLIGHT_FLOOR: u32 = 256 * 1024;
/// Bytes in flight are capped at this multiple of the measured bandwidth-delay product.
const BDP_MULTIPLE: u32 = 3;
/// Bytes in flight that are allowed in low-latency mode: OpenSSH grants credit for four packets at a time.
const LOW_LATENCY_FLOOR: u32 = 128 * 1024;
/// Shortest interval over which a rate is measured.
const MIN_INTERVAL: Duration = Duration::from_millis(5);
/// Intervals that are measured before the first one counts.
const WARMUP_INTERVALS: u32 = 2;
/// Time that a writer waits for credit before the cap is lifted: the server grants credit by another rule, or its
/// target does not read.
const CREDIT_PATIENCE: Duration = Duration::from_millis(200);

/// Writes of at most this many bytes are treated as interactive: they do not wait behind bulk data.
pub(crate) const SMALL_WRITE: usize = 4 * 1024;
/// A channel with this many bytes in flight sends bulk data itself: its small writes are the ends of larger ones.
const BULK_IN_FLIGHT: u32 = 64 * 1024;
/// Round trip above which low-latency mode is off: on a long line the queue is TCP's matter.
const LOW_LATENCY_MAX_RTT: Duration = Duration::from_millis(1);
/// Small writes in a row that count as an interactive conversation. Fewer of them start any connection.
const INTERACTIVE_RUN: u32 = 16;
/// Pause after which a run of small writes starts again.
const INTERACTIVE_PAUSE: Duration = Duration::from_millis(500);

/// Finds out whether a channel of the session is interactive: counts small writes in a row.
#[derive(Debug, Default)]
pub(super) struct InteractiveDetector {
    /// Small writes in a row, over all channels; at most [`INTERACTIVE_RUN`].
    run: u32,
    /// The channel of the last small write, and its time.
    last: Option<(u32, Instant)>,
}

impl InteractiveDetector {
    /// Counts a write of `len` bytes, if it is small and not the end of a bulk transfer.
    pub(super) fn record_write(
        &mut self,
        channel: u32,
        len: usize,
        window: &SendWindow,
        now: Instant,
    ) {
        // A bulk transfer ends in a short write as well: without the second condition it would look interactive.
        if len <= SMALL_WRITE && window.in_flight < BULK_IN_FLIGHT {
            self.run = if self.is_recent(now) { self.run + 1 } else { 1 }.min(INTERACTIVE_RUN);
            self.last = Some((channel, now));
        }
    }

    fn is_recent(&self, now: Instant) -> bool {
        self.last
            .is_some_and(|(_, at)| now.saturating_duration_since(at) < INTERACTIVE_PAUSE)
    }

    /// Whether another channel than `channel` is interactive, so that this one has to keep its queue short.
    pub(super) fn is_other_interactive(
        &self,
        channel: u32,
        now: Instant,
        min_rtt: Option<Duration>,
    ) -> bool {
        // No measurement, no low latency: the cap would be a guess.
        min_rtt.is_some_and(|rtt| rtt < LOW_LATENCY_MAX_RTT)
            && self.run == INTERACTIVE_RUN
            && self.is_recent(now)
            && self.last.is_some_and(|(other, _)| other != channel)
    }
}

/// How the bytes in flight are limited.
#[derive(Debug)]
enum Pacing {
    /// By the window only, while the first intervals are measured.
    Warmup { intervals: u32 },
    /// To a multiple of the bandwidth-delay product `bdp`, in bytes.
    Capped {
        bdp: u32,
        /// Since when a writer waits for the cap.
        waiting_since: Option<Instant>,
    },
    /// By the window only, for good: the server does not grant credit as it consumes.
    Uncapped,
}

/// The send window of one channel.
#[derive(Debug)]
pub(super) struct SendWindow {
    /// Bytes that the server still allows.
    credit: u32,
    max_packet: u32,
    /// Bytes that were sent and not credited.
    in_flight: u32,
    /// Start of the current measuring interval, and the bytes credited since.
    interval: Option<(Instant, u64)>,
    pacing: Pacing,
    low_latency: bool,
}

impl SendWindow {
    /// A window as the server announced it; at most `max_packet` bytes per packet.
    pub(super) fn new(credit: u32, max_packet: u32) -> Self {
        Self {
            credit,
            max_packet,
            in_flight: 0,
            interval: None,
            pacing: Pacing::Warmup { intervals: 0 },
            low_latency: false,
        }
    }

    /// Keeps the queue shorter while another channel is interactive.
    pub(super) fn set_low_latency(&mut self, low_latency: bool) {
        self.low_latency = low_latency;
    }

    /// How many of `len` bytes may be sent in one packet now.
    pub(super) fn allows(&self, len: usize) -> usize {
        let room = match self.pacing {
            Pacing::Capped { bdp, .. } => self
                .credit
                .min(self.in_flight_cap(bdp).saturating_sub(self.in_flight)),
            // Without a measurement the server's window is the only known bound.
            Pacing::Warmup { .. } | Pacing::Uncapped => self.credit,
        };
        len.min(room as usize).min(self.max_packet as usize)
    }

    fn in_flight_cap(&self, bdp: u32) -> u32 {
        // About one product in flight keeps the line busy without a queue behind it.
        if self.low_latency {
            return bdp.saturating_add(bdp / 4).max(LOW_LATENCY_FLOOR);
        }
        bdp.saturating_mul(BDP_MULTIPLE)
            .saturating_add(IN_FLIGHT_FLOOR)
    }

    pub(super) fn send(&mut self, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.credit = self.credit.saturating_sub(len);
        self.in_flight = self.in_flight.saturating_add(len);
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Adds credit. `false` if the window overflows, which RFC 4254 §5.2 forbids.
    #[must_use]
    pub(super) fn add_credit(
        &mut self,
        now: Instant,
        credit: u32,
        min_rtt: Option<Duration>,
    ) -> bool {
        let Some(sum) = self.credit.checked_add(credit) else {
            return false;
        };
        self.credit = sum;
        // Saturating: a server may grant more than was sent, to enlarge the window.
        self.in_flight = self.in_flight.saturating_sub(credit);
        // Credit arrived, so that the server does grant it: the patience starts again.
        if let Pacing::Capped { waiting_since, .. } = &mut self.pacing {
            *waiting_since = None;
        }
        if let Some(rtt) = min_rtt {
            self.measure(now, credit, rtt);
        }
        true
    }

    fn measure(&mut self, now: Instant, credit: u32, rtt: Duration) {
        // The first credit only starts the clock: when its bytes were sent is not known.
        let Some((since, bytes)) = self.interval else {
            self.interval = Some((now, 0));
            return;
        };
        let bytes = bytes + u64::from(credit);
        let elapsed = now.saturating_duration_since(since);
        // At least one round trip: credit comes in bursts, and a shorter interval would measure one of them.
        if elapsed < rtt.max(MIN_INTERVAL) {
            self.interval = Some((since, bytes));
            return;
        }
        self.interval = Some((now, 0));
        let product = u128::from(bytes) * rtt.as_nanos() / elapsed.as_nanos().max(1);
        let product = u32::try_from(product).unwrap_or(u32::MAX);
        self.pacing = match self.pacing {
            Pacing::Uncapped => Pacing::Uncapped,
            // The first intervals measure the start of a transfer and not the line.
            Pacing::Warmup { intervals } if intervals < WARMUP_INTERVALS => Pacing::Warmup {
                intervals: intervals + 1,
            },
            Pacing::Warmup { .. } => Pacing::Capped {
                bdp: product,
                waiting_since: None,
            },
            // Falls slowly: an interval in which little was written says nothing about the line.
            Pacing::Capped { bdp, waiting_since } => Pacing::Capped {
                bdp: product.max(bdp - bdp / 16),
                waiting_since,
            },
        };
    }

    /// Starts the wait of a writer for the cap. Returns when the cap is lifted; `None` if the writer waits for the
    /// window itself, which only the server can end.
    pub(super) fn start_wait(
        &mut self,
        now: Instant,
        min_rtt: Option<Duration>,
    ) -> Option<Instant> {
        let Pacing::Capped { waiting_since, .. } = &mut self.pacing else {
            return None;
        };
        if self.credit == 0 {
            // The window is used up: lifting the cap would not help.
            return None;
        }
        waiting_since.get_or_insert(now);
        self.wait_deadline(min_rtt)
    }

    /// When the cap is lifted. `None` if no writer waits for it.
    pub(super) fn wait_deadline(&self, min_rtt: Option<Duration>) -> Option<Instant> {
        match self.pacing {
            Pacing::Capped {
                waiting_since: Some(since),
                ..
            // On a long line four round trips, because credit takes at least one.
            } => Some(since + CREDIT_PATIENCE.max(min_rtt.unwrap_or_default() * 4)),
            _ => None,
        }
    }

    /// Lifts the cap for good if a writer has waited too long. Returns whether it did.
    pub(super) fn expire_wait(&mut self, now: Instant, min_rtt: Option<Duration>) -> bool {
        let expired = self
            .wait_deadline(min_rtt)
            .is_some_and(|deadline| now >= deadline);
        if expired {
            self.pacing = Pacing::Uncapped;
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    const WINDOW: u32 = 2 << 20;

    /// Sends all that is allowed and grants credit for `rate` bytes/s after each `step`. Returns the bytes in flight
    /// at the end.
    fn simulate(rate: u64, rtt: Duration, step: Duration, low_latency: bool) -> u32 {
        let mut window = SendWindow::new(WINDOW, 32768);
        window.set_low_latency(low_latency);
        let mut now = start();
        for _ in 0..200 {
            while window.allows(32768) > 0 {
                let some = window.allows(32768);
                window.send(some);
            }
            now += step;
            let consumed = (rate as f64 * step.as_secs_f64()) as u32;
            let credit = consumed.min(window.in_flight);
            assert!(window.add_credit(now, credit, Some(rtt)));
            assert!(!window.expire_wait(now, Some(rtt)));
        }
        while window.allows(32768) > 0 {
            let some = window.allows(32768);
            window.send(some);
        }
        window.in_flight
    }

    #[test]
    fn a_short_line_gets_no_long_queue() {
        let rtt = Duration::from_micros(300);
        let in_flight = simulate(500_000_000, rtt, Duration::from_micros(300), false);
        assert!(in_flight < 1 << 20, "{in_flight}");
        assert!(in_flight >= IN_FLIGHT_FLOOR);
    }

    #[test]
    fn low_latency_mode_halves_the_queue() {
        let (rate, rtt) = (500_000_000, Duration::from_micros(300));
        let in_flight = simulate(rate, rtt, rtt, true);
        assert!(
            in_flight < simulate(rate, rtt, rtt, false) / 2,
            "{in_flight}"
        );
        assert!(in_flight >= LOW_LATENCY_FLOOR);
    }

    #[test]
    fn a_line_with_a_long_round_trip_uses_the_whole_window() {
        let rtt = Duration::from_millis(100);
        for low_latency in [false, true] {
            assert_eq!(simulate(1_000_000_000, rtt, rtt, low_latency), WINDOW);
        }
    }

    #[test]
    fn the_limit_is_lifted_for_a_server_that_grants_credit_late() {
        let rtt = Some(Duration::from_micros(300));
        let mut window = SendWindow::new(WINDOW, 32768);
        let mut now = start();
        for _ in 0..4 {
            now += Duration::from_millis(10);
            window.send(window.allows(32768));
            assert!(window.add_credit(now, 32768, rtt));
        }
        while window.allows(32768) > 0 {
            let some = window.allows(32768);
            window.send(some);
        }
        assert!(window.credit > 0);
        let end = window.start_wait(now, rtt).unwrap();
        assert!(!window.expire_wait(end - Duration::from_millis(1), rtt));
        assert!(window.expire_wait(end, rtt));
        assert_eq!(window.allows(32768), 32768);
    }

    #[test]
    fn credit_that_overflows_the_window_is_refused() {
        let mut window = SendWindow::new(u32::MAX - 1, 1);
        assert!(window.add_credit(start(), 1, None));
        assert!(!window.add_credit(start(), 1, None));
    }
}
