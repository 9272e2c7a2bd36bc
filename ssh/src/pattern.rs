//! Host patterns of ssh (ssh_config(5) PATTERNS): `*`, `?`, and lists where `!` takes out again.

/// What a pattern list says of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternMatch {
    /// A pattern matches and no negated one does.
    Matched,
    /// A negated pattern matches, which wins over all others.
    Negated,
    /// No pattern matches.
    Unmatched,
}

/// Whether `text` matches `pattern`, case and all.
pub fn matches(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let (mut t, mut p) = (0, 0);
    // Where to take up again: the last star, and how much of the text it has swallowed.
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
                Some((after, swallowed)) => {
                    star = Some((after, swallowed + 1));
                    t = swallowed + 1;
                    p = after;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == b'*')
}

/// What a comma-separated list of patterns says of a host name; letters compare without case.
pub fn match_list(host: &str, patterns: &str) -> PatternMatch {
    let host = host.to_ascii_lowercase();
    let mut verdict = PatternMatch::Unmatched;
    for pattern in patterns.split(',') {
        let pattern = pattern.to_ascii_lowercase();
        if let Some(pattern) = pattern.strip_prefix('!') {
            if matches(&host, pattern) {
                return PatternMatch::Negated;
            }
        } else if matches(&host, &pattern) {
            verdict = PatternMatch::Matched;
        }
    }
    verdict
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
            assert_eq!(matches(text, pattern), expected, "{text} {pattern}");
        }
    }

    #[test]
    fn a_negated_pattern_wins_wherever_it_stands() {
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
        fn a_text_matches_itself_with_any_part_starred(text in "[a-z.]{1,20}", cut in 0usize..20, end in 0usize..20) {
            let (from, to) = (cut.min(text.len()), end.min(text.len()));
            let (from, to) = (from.min(to), from.max(to));
            let pattern = format!("{}*{}", &text[..from], &text[to..]);
            prop_assert!(matches(&text, &pattern));
        }

        #[test]
        fn many_stars_end(text in "a{0,60}", stars in 0usize..30) {
            let pattern = "*a".repeat(stars) + "b";
            prop_assert!(!matches(&text, &pattern));
        }
    }
}
