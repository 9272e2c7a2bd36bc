//! Durations in the grammar of ssh_config (sshd_config(5), TIME FORMATS): `90`, `15s`, `1m30s`, `2h`, `1w2d`.

use std::fmt;
use std::time::Duration;

/// Longest duration that is accepted: what OpenSSH stores in an `int` of seconds, about 68 years.
pub const LONGEST: Duration = Duration::from_secs(i32::MAX as u64);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// The text is empty; a duration of zero is written `0`.
    #[error("the time is missing")]
    Empty,
    /// A unit other than s, m, h, d and w.
    #[error("`{0}` is not a unit of time")]
    Unit(char),
    /// A unit without a number before it.
    #[error("the number before `{0}` is missing")]
    Number(char),
    /// The duration is longer than [`LONGEST`].
    #[error("the time is too long")]
    TooLong,
}

/// Description of the grammar, for error messages.
pub const GRAMMAR: &str = "write seconds (90), or numbers with the units s, m, h, d, w (\"1m30s\")";

/// Parses a duration. A number without a unit means seconds; units may be upper or lower case.
///
/// ```
/// use std::time::Duration;
/// use tunneld_proto::duration::parse;
/// assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
/// assert!(parse("1.5s").is_err());
/// ```
///
/// # Errors
/// If the text does not follow the grammar or the duration is longer than [`LONGEST`].
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    if text.is_empty() {
        return Err(BadDuration::Empty);
    }
    let mut total: u64 = 0;
    let mut number: Option<u64> = None;
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            // Checked arithmetic: the text comes from a configuration file or a command line.
            let grown = number
                .unwrap_or(0)
                .checked_mul(10)
                .and_then(|n| n.checked_add(u64::from(digit)));
            number = Some(grown.ok_or(BadDuration::TooLong)?);
            continue;
        }
        let unit = seconds_in(c).ok_or(BadDuration::Unit(c))?;
        let count = number.take().ok_or(BadDuration::Number(c))?;
        total = count
            .checked_mul(unit)
            .and_then(|n| total.checked_add(n))
            .ok_or(BadDuration::TooLong)?;
    }
    total = total
        .checked_add(number.unwrap_or(0))
        .ok_or(BadDuration::TooLong)?;
    if total > LONGEST.as_secs() {
        return Err(BadDuration::TooLong);
    }
    Ok(Duration::from_secs(total))
}

fn seconds_in(unit: char) -> Option<u64> {
    Some(match unit.to_ascii_lowercase() {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    })
}

/// Formats a duration in the grammar that [`parse`] accepts; fractions of a second are left out.
///
/// ```
/// use std::time::Duration;
/// use tunneld_proto::duration::Display;
/// assert_eq!(Display(Duration::from_secs(90)).to_string(), "1m30s");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Display(pub Duration);

impl fmt::Display for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_secs();
        // The loop would write nothing.
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, name) in [
            (604_800, 'w'),
            (86_400, 'd'),
            (3_600, 'h'),
            (60, 'm'),
            (1, 's'),
        ] {
            if left >= unit {
                write!(f, "{}{name}", left / unit)?;
                left %= unit;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_what_openssh_accepts() {
        for (text, seconds) in [
            ("0", 0),
            ("90", 90),
            ("15s", 15),
            ("1m30s", 90),
            ("2h", 7_200),
            ("1M", 60),
            ("1w2d3h4m5s", 788_645),
            ("1h5", 3_605),
            ("2147483647", 2_147_483_647),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn rejects_the_rest_without_overflow() {
        for (text, why) in [
            ("", BadDuration::Empty),
            ("s", BadDuration::Number('s')),
            ("1ss", BadDuration::Number('s')),
            ("-1", BadDuration::Unit('-')),
            ("1.5s", BadDuration::Unit('.')),
            ("15 s", BadDuration::Unit(' ')),
            ("1y", BadDuration::Unit('y')),
            ("2147483648", BadDuration::TooLong),
            ("99999999999999999999999", BadDuration::TooLong),
            ("18446744073709551615w", BadDuration::TooLong),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_causes_a_panic(text in ".{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_formatted_duration_parses_to_the_same_value(seconds in 0..=LONGEST.as_secs()) {
            let time = Duration::from_secs(seconds);
            prop_assert_eq!(parse(&Display(time).to_string()), Ok(time));
        }
    }
}
