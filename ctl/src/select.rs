//! Which tunnels a command means: names, patterns, tags.

use tunneld_proto::status::TunnelStatus;

use crate::cli::Which;
use crate::exit::{Exit, NO_TUNNEL};

/// The names meant, in the daemon's order; each name and tag must find something.
pub(crate) fn select(tunnels: &[TunnelStatus], which: &Which) -> Result<Vec<String>, Exit> {
    if which.all {
        return Ok(tunnels.iter().map(|tunnel| tunnel.name.clone()).collect());
    }
    check(which)?;
    for name in &which.names {
        if !tunnels.iter().any(|tunnel| matches(name, &tunnel.name)) {
            return Err(missing(name, tunnels));
        }
    }
    for tag in &which.tag {
        if !tunnels.iter().any(|tunnel| tunnel.tags.contains(tag)) {
            return Err(
                Exit::new(NO_TUNNEL, format!("no tunnel bears the tag {tag}"))
                    .hint("tunnelctl status NAME shows a tunnel's tags"),
            );
        }
    }
    Ok(tunnels
        .iter()
        .filter(|tunnel| is_meant(tunnel, which))
        .map(|tunnel| tunnel.name.clone())
        .collect())
}

/// Whether this tunnel is meant.
pub(crate) fn is_meant(tunnel: &TunnelStatus, which: &Which) -> bool {
    which.all
        || which.names.iter().any(|name| matches(name, &tunnel.name))
        || which.tag.iter().any(|tag| tunnel.tags.contains(tag))
}

/// Whether anything is named at all.
pub(crate) fn check(which: &Which) -> Result<(), Exit> {
    if which.all || !which.names.is_empty() || !which.tag.is_empty() {
        return Ok(());
    }
    Err(Exit::usage("which tunnels is not said")
        .hint("name them, or give --tag TAG or --all; tunnelctl status shows them"))
}

fn missing(name: &str, tunnels: &[TunnelStatus]) -> Exit {
    if is_pattern(name) {
        return Exit::new(NO_TUNNEL, format!("no tunnel's name is like {name}"))
            .hint("tunnelctl status shows all there are");
    }
    let exit = Exit::new(NO_TUNNEL, format!("there is no tunnel {name}"));
    let nearest = tunnels
        .iter()
        .map(|tunnel| (strsim::jaro_winkler(name, &tunnel.name), &tunnel.name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((near, other)) if near > 0.8 => exit.hint(format!("did you mean {other}?")),
        _ if name.contains('@') => exit.hint(format!("to make one on the spot, say what it forwards: tunnelctl up -L 8088:localhost:80 {name}")),
        _ => exit.hint("tunnelctl status shows all there are, tunnelctl check what is wrong with the configuration"),
    }
}

/// Whether the name is a pattern rather than a name.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
        || name
            .split_once('[')
            .is_some_and(|(_, rest)| rest.contains(']'))
}

/// Whether `name` is like `pattern`, in the shell's grammar: `*`, `?`, `[a-z]`, `[!a-z]`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where to go on when the last star has to take one more.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut n) = (0, 0);
    while n < name.len() || p < pattern.len() {
        let step = match (pattern.get(p), name.get(n)) {
            (Some('*'), _) => {
                star = Some((p, n));
                Some((p + 1, n))
            }
            (Some(_), Some(c)) => {
                one(pattern.get(p..).unwrap_or_default(), *c).map(|length| (p + length, n + 1))
            }
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

/// How many characters of the pattern's head match `c`; none where they do not.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['[', rest @ ..] => {
            let (negated, body) = match rest {
                ['!' | '^', body @ ..] => (true, body),
                body => (false, body),
            };
            // A bracket right at the beginning is a member.
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
    use crate::output::sample::tunnel;
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

    fn which(names: &[&str], tag: &[&str], all: bool) -> Which {
        Which {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            tag: tag.iter().map(|tag| (*tag).to_owned()).collect(),
            all,
        }
    }

    #[test]
    fn names_patterns_tags_and_all() {
        let got = |which: Which| select(&tunnels(), &which).unwrap().join(" ");
        assert_eq!(got(which(&["web"], &[], false)), "web");
        assert_eq!(
            got(which(&["db-*", "web"], &[], false)),
            "db-prod db-test web"
        );
        assert_eq!(got(which(&["db-prod"], &["work"], false)), "db-prod web");
        assert_eq!(got(which(&[], &[], true)), "db-prod db-test web");
    }

    #[test]
    fn what_finds_nothing_is_four_and_saying_nothing_is_two() {
        let err = select(&tunnels(), &which(&["db-prd"], &[], false)).unwrap_err();
        assert_eq!(
            (err.code, err.hint.as_deref()),
            (4, Some("did you mean db-prod?"))
        );
        for wrong in [
            which(&["web", "zz"], &[], false),
            which(&["x*"], &[], false),
            which(&[], &["home"], false),
        ] {
            assert_eq!(select(&tunnels(), &wrong).unwrap_err().code, 4);
        }
        assert_eq!(
            select(&tunnels(), &which(&[], &[], false))
                .unwrap_err()
                .code,
            2
        );
    }

    #[test]
    fn patterns_are_the_shells() {
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
