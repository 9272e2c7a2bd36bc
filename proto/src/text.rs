//! Escapes untrusted text (server banners, host names, prompts, command output) before it is shown or logged.
//!
//! Escaped characters: C0, DEL, C1 (U+009B starts a terminal control sequence), bidirectional controls, invisible
//! characters, and the line and paragraph separators. A backslash stays as it is, so that escaping is idempotent:
//! text from the daemon is already escaped, and `tunnelctl` escapes it once more.

use std::fmt::Write as _;

/// Longest text that [`escape`] and [`escape_bytes`] return, in bytes.
pub const LIMIT: usize = 1024;

/// Replaces the rest of a text that is longer than [`LIMIT`].
const ELLIPSIS: &str = "…";

/// Returns whether `c` is invisible, moves the cursor, sets a colour or changes the reading direction.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Escapes `text` for a message, a log line or a JSON string: one line of at most [`LIMIT`] bytes.
///
/// Line feed, carriage return and tab become `\n`, `\r` and `\t`, every other unsafe character becomes `\u{…}`.
/// A longer text is cut between two escapes and ends with `…`.
///
/// ```
/// use tunneld_proto::text::escape;
/// assert_eq!(escape("motd\n\x1b[31mred"), "motd\\n\\u{1b}[31mred");
/// ```
pub fn escape(text: &str) -> String {
    escape_chunks([(text, &[][..])])
}

/// As [`escape`], for bytes that may not be UTF-8: an invalid byte becomes `\xNN`.
///
/// ```
/// use tunneld_proto::text::escape_bytes;
/// assert_eq!(escape_bytes(b"caf\xe9"), "caf\\xe9");
/// ```
pub fn escape_bytes(bytes: &[u8]) -> String {
    escape_chunks(
        bytes
            .utf8_chunks()
            .map(|chunk| (chunk.valid(), chunk.invalid())),
    )
}

/// Escapes `text` of any length to one line; every unsafe character, line feeds included, becomes `\u{…}`.
///
/// ```
/// use tunneld_proto::text::escape_line;
/// assert_eq!(escape_line("a\nb"), "a\\u{a}b");
/// ```
pub fn escape_line(text: &str) -> String {
    escape_except(text, |_| false)
}

/// As [`escape_line`], but line feeds stay: for text that consists of several lines.
///
/// ```
/// use tunneld_proto::text::escape_lines;
/// assert_eq!(escape_lines("a\nb\tc"), "a\nb\\u{9}c");
/// ```
pub fn escape_lines(text: &str) -> String {
    escape_except(text, |c| c == '\n')
}

fn escape_except(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) && !keep(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

fn escape_chunks<'a>(chunks: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut out = String::new();
    // The longest prefix after which the ellipsis still fits; it always ends between two escapes.
    let mut cut = 0;
    for (valid, invalid) in chunks {
        for c in valid.chars() {
            if is_unsafe(c) {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
            if truncate_at_limit(&mut out, &mut cut) {
                return out;
            }
        }
        for byte in invalid {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
            if truncate_at_limit(&mut out, &mut cut) {
                return out;
            }
        }
    }
    out
}

/// Cuts `out` back to `cut` and appends the ellipsis if it is over the limit; returns whether it did.
fn truncate_at_limit(out: &mut String, cut: &mut usize) -> bool {
    if out.len() > LIMIT {
        // Never inside an escape: half of `\u{1b}` would be misread.
        out.truncate(*cut);
        out.push_str(ELLIPSIS);
        return true;
    }
    if out.len() <= LIMIT - ELLIPSIS.len() {
        *cut = out.len();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The two spellings differ in `\n`, `\r` and `\t` alone; logs and scripts may depend on either.
    #[test]
    fn the_spelling_of_each_escape_is_fixed() {
        for (text, short, line) in [
            ("", "", ""),
            (
                "Grüße, 世界 \\ \"quoted\" …",
                "Grüße, 世界 \\ \"quoted\" …",
                "Grüße, 世界 \\ \"quoted\" …",
            ),
            (
                "\x1b[31mred\x07",
                "\\u{1b}[31mred\\u{7}",
                "\\u{1b}[31mred\\u{7}",
            ),
            ("a\nb\r\tc", "a\\nb\\r\\tc", "a\\u{a}b\\u{d}\\u{9}c"),
            ("\u{9b}2J\x7f", "\\u{9b}2J\\u{7f}", "\\u{9b}2J\\u{7f}"),
            (
                "\u{202e}txt.exe\u{2066}",
                "\\u{202e}txt.exe\\u{2066}",
                "\\u{202e}txt.exe\\u{2066}",
            ),
            (
                "a\u{2028}b\u{200f}",
                "a\\u{2028}b\\u{200f}",
                "a\\u{2028}b\\u{200f}",
            ),
        ] {
            assert_eq!(escape(text), short);
            assert_eq!(escape_line(text), line);
        }
        assert_eq!(escape_bytes(b"a\xff\xc3\xa9\xc3"), "a\\xffé\\xc3");
        assert_eq!(escape_lines("a\nb\tc\r\n"), "a\nb\\u{9}c\\u{d}\n");
    }

    #[test]
    fn text_over_the_limit_is_cut_between_two_escapes() {
        assert_eq!(escape(&"x".repeat(LIMIT)), "x".repeat(LIMIT));
        let cut = escape(&"\x1b".repeat(LIMIT));
        assert!(cut.len() <= LIMIT && cut.ends_with("}…"), "{cut}");
        assert_eq!(escape(&cut), cut);
    }

    proptest! {
        #[test]
        fn escaped_bytes_are_safe_short_and_stay_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let once = escape_bytes(&bytes);
            prop_assert!(once.len() <= LIMIT);
            prop_assert!(!once.chars().any(is_unsafe));
            prop_assert_eq!(escape(&once), once.clone());
            let json = serde_json::to_string(&once).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), once);
        }

        #[test]
        fn escaped_text_is_safe_and_stays_the_same(text in "\\PC{0,40}[\u{0}-\u{1f}\u{80}-\u{9f}\u{202a}-\u{202e}\u{2066}-\u{2069}]{0,20}\\PC{0,40}") {
            for escape in [escape, escape_line] {
                let once = escape(&text);
                prop_assert!(!once.chars().any(is_unsafe));
                prop_assert_eq!(escape(&once), once.clone());
            }
        }

        #[test]
        fn any_text_becomes_one_safe_line(text in any::<String>()) {
            let once = escape_line(&text);
            prop_assert!(!once.chars().any(is_unsafe));
            prop_assert_eq!(escape_line(&once), once);
        }
    }
}
