//! Foreign text made safe to show: no control character, no writing-direction trick gets through.
//!
//! What is escaped: C0, DEL, C1 (U+009B begins a terminal's control sequence), the bidirectional controls,
//! and the line and paragraph separators.

use std::fmt::Write as _;

/// Whether `c` could move a cursor, colour a terminal, make text read as what it is not, or is not seen at all.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` with every unsafe character written as `\u{…}`; doing it twice changes nothing.
pub fn escape(text: &str) -> String {
    escape_but(text, |_| false)
}

/// As [`escape`], with line feeds kept: for text that has lines of its own.
pub fn escape_lines(text: &str) -> String {
    escape_but(text, |c| c == '\n')
}

fn escape_but(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) && !keep(c) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_moves_a_terminal_is_spelled_out() {
        assert_eq!(
            escape("a\x1b[31mb\u{9b}c\u{7f}\r\n"),
            "a\\u{1b}[31mb\\u{9b}c\\u{7f}\\u{d}\\u{a}"
        );
        assert_eq!(
            escape("\u{202e}txt.exe\u{2028}"),
            "\\u{202e}txt.exe\\u{2028}"
        );
        assert_eq!(escape_lines("a\nb\tc"), "a\nb\\u{9}c");
        assert_eq!(escape("häuser 日本 …"), "häuser 日本 …");
    }

    proptest! {
        #[test]
        fn escaped_text_is_safe_and_stays(text in any::<String>()) {
            let once = escape(&text);
            prop_assert!(!once.chars().any(is_unsafe));
            prop_assert_eq!(escape(&once), once);
        }
    }
}
