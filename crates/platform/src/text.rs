//! The one place where foreign text (server banners, host names, prompts, what a command printed) is made fit to be
//! shown or logged: no control characters, nothing that turns the reading direction, one line, at most 1 KiB.
//! The backslash itself stays as it is, so that escaping twice is escaping once.

use std::fmt::Write as _;

/// The longest text that [`escape`] gives, in bytes.
pub const LIMIT: usize = 1024;

/// What stands for the rest of a text that was too long.
const ELLIPSIS: &str = "…";

/// Foreign text, fit for a terminal, a log line and a JSON string.
pub fn escape(text: &str) -> String {
    escape_chunks([(text, &[][..])])
}

/// Foreign bytes, the same way; what is not UTF-8 becomes `\xNN`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    escape_chunks(
        bytes
            .utf8_chunks()
            .map(|chunk| (chunk.valid(), chunk.invalid())),
    )
}

/// Whether a character may stand in shown text as it is.
pub fn is_plain(c: char) -> bool {
    !tunneld_proto::text::is_unsafe(c)
}

fn escape_chunks<'a>(chunks: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut out = String::new();
    // The longest prefix after which the ellipsis still fits.
    let mut cut = 0;
    for (valid, invalid) in chunks {
        for c in valid.chars() {
            if is_plain(c) {
                out.push(c);
            } else {
                out.extend(c.escape_default());
            }
            if overflows(&mut out, &mut cut) {
                return out;
            }
        }
        for byte in invalid {
            let _infallible = write!(out, "\\x{byte:02x}");
            if overflows(&mut out, &mut cut) {
                return out;
            }
        }
    }
    out
}

fn overflows(out: &mut String, cut: &mut usize) -> bool {
    if out.len() > LIMIT {
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

    #[test]
    fn shows_what_is_harmless_and_escapes_the_rest() {
        for (given, shown) in [
            ("", ""),
            ("Grüße, 世界 \\ \"quoted\"", "Grüße, 世界 \\ \"quoted\""),
            ("\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{9b}2J\x7f", "\\u{9b}2J\\u{7f}"),
            ("\u{202e}txt.exe\u{2066}", "\\u{202e}txt.exe\\u{2066}"),
            ("a\u{2028}b\u{200f}", "a\\u{2028}b\\u{200f}"),
        ] {
            assert_eq!(escape(given), shown);
        }
        assert_eq!(escape_bytes(b"a\xff\xc3\xa9\xc3"), "a\\xffé\\xc3");
    }

    #[test]
    fn cuts_what_is_too_long_between_escapes() {
        assert_eq!(escape(&"x".repeat(LIMIT)), "x".repeat(LIMIT));
        let cut = escape(&"\x1b".repeat(LIMIT));
        assert!(cut.len() <= LIMIT && cut.ends_with("}…"), "{cut}");
        assert_eq!(escape(&cut), cut);
    }

    proptest! {
        #[test]
        fn is_plain_short_and_idempotent(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let once = escape_bytes(&bytes);
            prop_assert!(once.len() <= LIMIT);
            prop_assert!(once.chars().all(is_plain));
            prop_assert_eq!(escape(&once), once.clone());
            let json = serde_json::to_string(&once).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), once);
        }

        #[test]
        fn holds_for_any_text(text in "\\PC{0,40}[\u{0}-\u{1f}\u{80}-\u{9f}\u{202a}-\u{202e}\u{2066}-\u{2069}]{0,20}\\PC{0,40}") {
            let once = escape(&text);
            prop_assert!(once.chars().all(is_plain));
            prop_assert_eq!(escape(&once), once.clone());
        }
    }
}
