//! Selects tunnels by name, pattern and tag.

use tunneld_proto::status::TunnelStatus;

use crate::cli::Selection;
use crate::exit::{Exit, NO_TUNNEL};

/// Returns the names of the selected tunnels in the daemon's order; exit 4 if a name or tag matches no tunnel.
pub(crate) fn select(tunnels: &[TunnelStatus], selection: &Selection) -> Result<Vec<String>, Exit> {
    if selection.all {
        return Ok(tunnels.iter().map(|tunnel| tunnel.name.clone()).collect());
    }
    require_selection(selection)?;
    for name in &selection.names {
        // Each name has to match: a misspelt one must not pass unnoticed beside others that match.
        if !tunnels.iter().any(|tunnel| matches(name, &tunnel.name)) {
            return Err(missing(name, tunnels));
        }
    }
    for tag in &selection.tag {
        if !tunnels.iter().any(|tunnel| tunnel.tags.contains(tag)) {
            return Err(Exit::new(NO_TUNNEL, format!("no tunnel has the tag {tag}"))
                .hint("show the tags of a tunnel: tunnelctl status NAME"));
        }
    }
    Ok(tunnels
        .iter()
        .filter(|tunnel| is_selected(tunnel, selection))
        .map(|tunnel| tunnel.name.clone())
        .collect())
}

/// Returns whether `selection` includes this tunnel.
pub(crate) fn is_selected(tunnel: &TunnelStatus, selection: &Selection) -> bool {
    selection.all
        || selection
            .names
            .iter()
            .any(|name| matches(name, &tunnel.name))
        || selection.tag.iter().any(|tag| tunnel.tags.contains(tag))
}

/// Fails with a usage error if the command line selects no tunnel.
pub(crate) fn require_selection(selection: &Selection) -> Result<(), Exit> {
    if selection.all || !selection.names.is_empty() || !selection.tag.is_empty() {
        return Ok(());
    }
    Err(Exit::usage("no tunnel named: give names, --tag or --all")
        .hint("list all tunnels: tunnelctl status"))
}

fn missing(name: &str, tunnels: &[TunnelStatus]) -> Exit {
    if is_pattern(name) {
        return Exit::new(NO_TUNNEL, format!("no tunnel matches {name}"))
            .hint("list all tunnels: tunnelctl status");
    }
    let exit = Exit::new(NO_TUNNEL, format!("there is no tunnel {name}"));
    let nearest = tunnels
        .iter()
        .map(|tunnel| (strsim::jaro_winkler(name, &tunnel.name), &tunnel.name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        // The threshold finds swapped and missing letters, and leaves unrelated names alone.
        Some((near, other)) if near > 0.8 => exit.hint(format!("did you mean {other}?")),
        // A name with `@` is meant as a destination, as for ssh.
        _ if name.contains('@') => exit.hint(format!(
            "to add a tunnel, say what it forwards: tunnelctl up -L 8088:localhost:80 {name}"
        )),
        _ => exit.hint(format!(
            "list all tunnels: tunnelctl status; to add one for this host: tunnelctl up -L 8088:localhost:80 {name}"
        )),
    }
}

/// Returns whether the name contains a wildcard.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
        || name
            .split_once('[')
            .is_some_and(|(_, rest)| rest.contains(']'))
}

/// Returns whether `name` matches `pattern` in the grammar of shells: `*`, `?`, `[a-z]`, `[!a-z]`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Positions of the last `*` and of the first character behind what it has matched so far. If the rest does not match,
    // the star takes one character more; earlier stars need no retry.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut n) = (0, 0);
    while n < name.len() || p < pattern.len() {
        let step = match (pattern.get(p), name.get(n)) {
            (Some('*'), _) => {
                star = Some((p, n));
                Some((p + 1, n))
            }
            (Some(_), Some(c)) => match_one(pattern.get(p..).unwrap_or_default(), *c)
                .map(|length| (p + length, n + 1)),
            _ => None,
        };
        match (step, star) {
            (Some(next), _) => (p, n) = next,
            (None, Some((at, from))) if from < name.len() => {
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            }
            _ => return false,
        }
    }
    true
}

/// Returns how many characters of the pattern match the character `c`; `None` if it does not match.
fn match_one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['[', rest @ ..] => {
            let (negated, body) = match rest {
                ['!' | '^', body @ ..] => (true, body),
                body => (false, body),
            };
            // A bracket as the first character belongs to the set: `[]x]`.
            let Some(end) = body.iter().skip(1).position(|c| *c == ']').map(|at| at + 1) else {
                return (c == '[').then_some(1);
            };
            let inside = is_member(body.get(..end).unwrap_or_default(), c);
            (inside != negated).then_some(end + 2 + usize::from(negated))
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

fn is_member(set: &[char], c: char) -> bool {
    match set {
        [low, '-', high, rest @ ..] => (*low..=*high).contains(&c) || is_member(rest, c),
        [single, rest @ ..] => *single == c || is_member(rest, c),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample::tunnel;
    use tunneld_proto::status::State;

    fn tunnels() -> Vec<TunnelStatus> {
        ["db-prod", "db-test", "web"]
            .map(|name| TunnelStatus {
                tags: if name == "web" {
                    vec!["work".into()]
                } else {
                    vec![]
                },
                ..tunnel(name, State::Up)
            })
            .into()
    }

    fn selection(names: &[&str], tag: &[&str], all: bool) -> Selection {
        Selection {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            tag: tag.iter().map(|tag| (*tag).to_owned()).collect(),
            all,
        }
    }

    #[test]
    fn names_patterns_tags_and_all_select_tunnels() {
        let got = |selection: Selection| select(&tunnels(), &selection).unwrap().join(" ");
        assert_eq!(got(selection(&["web"], &[], false)), "web");
        assert_eq!(
            got(selection(&["db-*", "web"], &[], false)),
            "db-prod db-test web"
        );
        assert_eq!(
            got(selection(&["db-prod"], &["work"], false)),
            "db-prod web"
        );
        assert_eq!(got(selection(&[], &[], true)), "db-prod db-test web");
    }

    #[test]
    fn no_match_is_exit_4_and_no_selection_is_exit_2() {
        let err = select(&tunnels(), &selection(&["db-prd"], &[], false)).unwrap_err();
        assert_eq!(
            (err.code, err.hint.as_deref()),
            (4, Some("did you mean db-prod?"))
        );
        for wrong in [
            selection(&["web", "zz"], &[], false),
            selection(&["x*"], &[], false),
            selection(&[], &["home"], false),
        ] {
            assert_eq!(select(&tunnels(), &wrong).unwrap_err().code, 4);
        }
        assert_eq!(
            select(&tunnels(), &selection(&[], &[], false))
                .unwrap_err()
                .code,
            2
        );
    }

    #[test]
    fn patterns_follow_shell_grammar() {
        for (pattern, name, like) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("?b", "ab", true),
            ("?b", "b", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("[a", "[a", true),
            ("*a*b*", "xxayyb", true),
            ("db", "db2", false),
            ("a.b", "axb", false),
            ("**a", "a", true),
            ("a*", "a", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(matches(pattern, name), like, "{pattern} {name}");
        }
    }
}
