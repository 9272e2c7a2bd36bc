//! What a peer says before the SSH protocol begins: lines that are no identification (a proxy's chatter, RFC 4253 §4.2)
//! are skipped and kept for the error, the identification is passed on. Pure.

use crate::text;

/// OpenSSH's own bounds.
const MAX_LINES: usize = 1024;
const MAX_LINE: usize = 8192;
/// How much of the chatter is kept.
const KEPT: usize = 1024;

/// Reads the beginning of a connection.
#[derive(Debug, Default)]
pub(super) struct Preamble {
    line: Vec<u8>,
    lines: usize,
    said: String,
}

/// What came of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// All were taken; more are needed.
    More,
    /// The identification, without its line end, and how many of the bytes were taken.
    Identified(Vec<u8>, usize),
    /// This is no SSH server.
    Nonsense(&'static str),
}

impl Preamble {
    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Fed {
        for (taken, &byte) in bytes.iter().enumerate() {
            if byte != b'\n' {
                if self.line.len() >= MAX_LINE {
                    return Fed::Nonsense(
                        "a line of more than 8 KiB before its SSH identification",
                    );
                }
                self.line.push(byte);
                continue;
            }
            let mut line = std::mem::take(&mut self.line);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.starts_with(b"SSH-") {
                return Fed::Identified(line, taken + 1);
            }
            self.lines += 1;
            if self.lines > MAX_LINES {
                return Fed::Nonsense("more than 1024 lines before its SSH identification");
            }
            self.keep(&line);
        }
        Fed::More
    }

    /// What was said, escaped, for an error.
    pub(super) fn said(&self) -> String {
        let mut said = self.said.clone();
        if !self.line.is_empty() {
            said.push_str(&text::escape_bytes(&self.line));
        }
        text::escape(said.trim())
    }

    fn keep(&mut self, line: &[u8]) {
        if !line.is_empty() && self.said.len() < KEPT {
            self.said.push_str(&text::escape_bytes(line));
            self.said.push(' ');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn skips_chatter_in_any_form() {
        let mut preamble = Preamble::default();
        let text = b"\nStarting session with SessionId: x\r\n\nSSH-2.0-Test\nrest";
        let Fed::Identified(id, taken) = preamble.feed(text) else {
            panic!("not identified");
        };
        assert_eq!(id, b"SSH-2.0-Test");
        assert_eq!(&text[taken..], b"rest");
        assert_eq!(preamble.said(), "Starting session with SessionId: x");
    }

    #[test]
    fn has_bounds() {
        assert!(matches!(
            Preamble::default().feed(&vec![b'x'; MAX_LINE + 1]),
            Fed::Nonsense(_)
        ));
        assert_eq!(Preamble::default().feed(&vec![b'\n'; MAX_LINES]), Fed::More);
        assert!(matches!(
            Preamble::default().feed(&vec![b'\n'; MAX_LINES + 1]),
            Fed::Nonsense(_)
        ));
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(head in "[a-z\r\n\u{1b}]{0,60}", cut in 0usize..70) {
            let whole = format!("{head}\nSSH-2.0-X\r\nrest").into_bytes();
            let cut = cut.min(whole.len());
            let at_once = Preamble::default().feed(&whole);
            let mut split = Preamble::default();
            let in_two = match split.feed(&whole[..cut]) {
                Fed::More => match split.feed(&whole[cut..]) {
                    Fed::Identified(id, taken) => Fed::Identified(id, cut + taken),
                    other => other,
                },
                other => other,
            };
            prop_assert_eq!(at_once, in_two);
        }
    }
}
