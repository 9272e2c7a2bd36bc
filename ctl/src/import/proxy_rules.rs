//! What a browser's proxy switcher knows of a tunnel: the port of its SOCKS proxy and the rules for it.

use tunneld_toml::proxy_for;

use super::url_rule::{Translation, UrlRule, matches};
use super::{ImportedTunnel, is_loopback};
use crate::exit::Exit;

/// The most rules of one file. Each is tried with 20 URLs.
pub(super) const MAX_RULES: usize = 5000;

/// One rule of the switcher, in its order.
#[derive(Debug)]
pub(super) struct Rule {
    /// The rule as it is in the file.
    pub(super) shown: String,
    /// Its meaning, or why it has none here.
    pub(super) rule: Result<UrlRule, String>,
    /// What it matches does not use the proxy.
    pub(super) excludes: bool,
}

/// Which of two rules that match the same page counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// One that excludes, as in `proxy_for`.
    ExclusionWins,
    /// The first.
    FirstWins,
}

/// Makes the tunnel of a SOCKS proxy at `host:port`.
///
/// # Errors
/// The proxy is not on this machine: no tunnel of the user listens there.
pub(super) fn tunnel(name: &str, host: &str, port: &str) -> Result<ImportedTunnel, String> {
    if !is_loopback(host) {
        return Err(
            "its proxy is on another machine; the rules would need a tunnel to it".to_owned(),
        );
    }
    let port: u16 = match port.parse() {
        Ok(port) if port != 0 => port,
        _ => return Err("its port is not a number from 1 to 65535".to_owned()),
    };
    let mut tunnel = ImportedTunnel::new(name);
    tunnel.set("dynamic_forward", port);
    tunnel.incomplete = Some("the browser knows the port, not the SSH server: write host");
    tunnel.disable("host", "user@server");
    Ok(tunnel)
}

/// Fails if a file has more than [`MAX_RULES`] rules.
pub(super) fn check_number(number: usize) -> Result<(), Exit> {
    if number <= MAX_RULES {
        return Ok(());
    }
    Err(Exit::usage(format!(
        "the file has too many rules; at most {MAX_RULES} are read"
    ))
    .hint("use wildcards for groups of hosts: *.example.internal"))
}

/// Sets `proxy_for` from the rules, with a note for each that is not carried over.
pub(super) fn add_rules(tunnel: &mut ImportedTunnel, rules: Vec<Rule>, order: Order) {
    let mut patterns: Vec<String> = Vec::new();
    for Rule {
        shown,
        rule,
        excludes,
    } in rules
    {
        let sign = if excludes { "!" } else { "" };
        let translated = rule.and_then(|rule| rule.translate());
        let checked = translated.and_then(|done| check_order(&patterns, done, excludes, order));
        match checked {
            Ok(Translation {
                patterns: new,
                notes,
            }) => {
                for pattern in new {
                    let pattern = format!("{sign}{pattern}");
                    if !patterns.contains(&pattern) {
                        patterns.push(pattern);
                    }
                }
                for note in notes {
                    tunnel.note(note);
                }
            }
            Err(reason) => tunnel.note(format!("not carried over: {sign}{shown}: {reason}")),
        }
    }
    if patterns.iter().all(|pattern| pattern.starts_with('!')) {
        tunnel.note("no rule says what uses this proxy: nothing does until you add to proxy_for");
    }
    if !patterns.is_empty() {
        tunnel.set("proxy_for", patterns);
    }
}

/// In `proxy_for` an exclusion wins over every other pattern. Where the first rule counts, an exclusion behind a rule
/// for the same hosts had no effect on them, and would have one here.
fn check_order(
    earlier: &[String],
    translation: Translation,
    excludes: bool,
    order: Order,
) -> Result<Translation, String> {
    if order == Order::ExclusionWins || !excludes {
        return Ok(translation);
    }
    let parsed = |text: &String| {
        proxy_for::parse(text)
            .ok()
            .filter(|pattern| !pattern.excludes)
    };
    for pattern in &translation.patterns {
        let host = pattern
            .split('/')
            .next()
            .unwrap_or_default()
            .replace('*', "a")
            .replace('?', "q");
        let same = earlier
            .iter()
            .filter_map(parsed)
            .any(|other| matches(&other, &host, 443));
        if same {
            return Err("a rule before it is for the same hosts and counted first".to_owned());
        }
    }
    Ok(translation)
}
