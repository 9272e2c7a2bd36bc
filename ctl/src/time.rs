//! Times as users write and read them: parses durations and points in time, formats "2h 13m".

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tunneld_proto::duration;

/// Parses a duration in the grammar of ssh_config.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| format!("{error}: {}", duration::GRAMMAR))
}

/// Start of a log excerpt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// A time this long before now, such as `10m`.
    Ago(Duration),
    /// A fixed time, given with its date.
    At(Timestamp),
}

impl Since {
    /// Returns the point in time; an age that is too long means the epoch.
    pub(crate) fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => SignedDuration::try_from(ago)
                .ok()
                .and_then(|ago| now.checked_sub(ago).ok())
                .unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

/// Parses an age as [`parse_duration`] does, or a point in time in RFC 3339.
pub(crate) fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    text.parse()
        .map(Since::At)
        .map_err(|_| format!("{text:?} is not a time: write 10m, 2h, or 2026-05-01T12:00:00Z"))
}

/// Returns the time from `from` to `to`; zero if `to` is earlier.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Formats a duration in its two largest units.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Formats a point in time in the local time zone.
pub(crate) fn local(at: Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_an_age() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let moment = |text| parse_since(text).unwrap().moment(now).to_string();
        assert_eq!(moment("10m"), "2026-05-01T11:50:00Z");
        assert_eq!(moment("2026-04-01T00:00:00+02:00"), "2026-03-31T22:00:00Z");
        assert!(parse_since("yesterday").is_err());
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (7980, "2h 13m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(
            between(now + SignedDuration::from_secs(5), now),
            Duration::ZERO
        );
    }
}
