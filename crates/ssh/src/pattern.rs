//! Wildcard patterns of ssh_config(5) PATTERNS and lists of them, as OpenSSH's match.c matches them.
//!
//! ```
//! use tunneld_ssh::pattern::{PatternMatch, match_list, match_pattern};
//!
//! assert!(match_pattern("db.example.com", "*.example.com"));
//! assert_eq!(match_list("dev.example.com", "*.example.com,!dev.*"), PatternMatch::Negated);
//! ```

/// Result of matching a text against a pattern list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternMatch {
    /// A pattern matches, and no negated pattern does.
    Matched,
    /// A negated pattern (`!pattern`) matches; it overrides every other match, wherever it is in the list.
    Negated,
    /// No pattern matches. A list of negated patterns only never matches anything.
    Unmatched,
}

/// Whether the whole of `text` matches `pattern`: `*` matches any bytes, `?` one byte. Case matters.
///
/// Takes at most `text.len() * pattern.len()` steps: only the last `*` is ever returned to.
pub fn match_pattern(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let (mut t, mut p) = (0, 0);
    // Where to continue after a mismatch: behind the last star, and the end of the text that this star has consumed.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(b'?') => {
                t += 1;
                p += 1;
            }
            Some(c) if text.get(t) == Some(c) => {
                t += 1;
                p += 1;
            }
            _ => match star {
                Some((after, consumed)) => {
                    star = Some((after, consumed + 1));
                    t = consumed + 1;
                    p = after;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == b'*')
}

/// Matches a host name against a comma-separated list of patterns. ASCII case does not matter.
pub fn match_list(host: &str, patterns: &str) -> PatternMatch {
    let host = host.to_ascii_lowercase();
    let mut result = PatternMatch::Unmatched;
    for pattern in patterns.split(',') {
        let pattern = pattern.to_ascii_lowercase();
        if let Some(pattern) = pattern.strip_prefix('!') {
            if match_pattern(&host, pattern) {
                return PatternMatch::Negated;
            }
        } else if match_pattern(&host, &pattern) {
            result = PatternMatch::Matched;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stars_and_question_marks() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "*", true),
            ("a", "", false),
            ("abc", "abc", true),
            ("abc", "a?c", true),
            ("abc", "a*", true),
            ("abc", "*c", true),
            ("abc", "*b*", true),
            ("abc", "a*b", false),
            ("aXbXb", "a*b", true),
            ("host.example.com", "*.example.com", true),
            ("example.com", "*.example.com", false),
            ("10.0.0.1", "10.0.0.?", true),
            ("10.0.0.12", "10.0.0.?", false),
            ("a", "a**", true),
        ] {
            assert_eq!(match_pattern(text, pattern), expected, "{text} {pattern}");
        }
    }

    #[test]
    fn a_negated_pattern_wins_at_any_position() {
        assert_eq!(match_list("a.example", "*.example"), PatternMatch::Matched);
        assert_eq!(match_list("A.Example", "*.eXample"), PatternMatch::Matched);
        assert_eq!(
            match_list("a.example", "*.example,!a.*"),
            PatternMatch::Negated
        );
        assert_eq!(
            match_list("a.example", "!a.*,*.example"),
            PatternMatch::Negated
        );
        assert_eq!(match_list("b.example", "!a.*"), PatternMatch::Unmatched);
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_with_any_part_replaced_by_a_star(text in "[a-z.]{1,20}", cut in 0usize..20, end in 0usize..20) {
            let (from, to) = (cut.min(text.len()), end.min(text.len()));
            let (from, to) = (from.min(to), from.max(to));
            let pattern = format!("{}*{}", &text[..from], &text[to..]);
            prop_assert!(match_pattern(&text, &pattern));
        }

        #[test]
        fn many_stars_take_no_exponential_time(text in "a{0,60}", stars in 0usize..30) {
            let pattern = "*a".repeat(stars) + "b";
            prop_assert!(!match_pattern(&text, &pattern));
        }
    }
}
