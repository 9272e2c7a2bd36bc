//! Rule lists of SwitchyOmega: its own format, and AutoProxy's.

use super::proxy_rules::{MAX_RULES, Rule};
use super::rule_subject::Subject;
use super::url_rule::UrlRule;
use crate::exit::Exit;

/// A rule and, in a list `@with result`, the profile that it selects.
pub(super) type ListedRule = (Rule, Option<String>);

/// Reads a rule list.
///
/// # Errors
/// The list is encoded.
pub(super) fn read(text: &str) -> Result<Vec<ListedRule>, Exit> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines().next().unwrap_or_default();
    if first.starts_with("W0F1dG9Qcm94") {
        return Err(Exit::usage("the rule list is encoded in base64")
            .hint("decode it first: base64 -d FILE"));
    }
    if first.to_ascii_lowercase().starts_with("[autoproxy") {
        return Ok(lines()
            .skip(1)
            .filter_map(auto_proxy)
            .take(MAX_RULES + 1)
            .map(|rule| (rule, None))
            .collect());
    }
    let with_result = lines().any(|line| line == "@with result" || line == "@with results");
    Ok(lines()
        .filter_map(|line| own(line, with_result))
        .take(MAX_RULES + 1)
        .collect())
}

/// A line of SwitchyOmega's own format: `TYPE: pattern`, `!` before it to exclude, ` +PROFILE` behind it.
fn own(line: &str, with_result: bool) -> Option<ListedRule> {
    if line.starts_with([';', '#', '@', '[']) {
        return None;
    }
    let (excludes, body) = match line.strip_prefix('!') {
        Some(rest) => (true, rest.trim()),
        None => (false, line),
    };
    let (body, profile) = match body.rsplit_once(" +").filter(|_| with_result) {
        Some((body, profile)) => (body.trim(), Some(profile.trim().to_owned())),
        None => (body, None),
    };
    let (kind, pattern) = match body.split_once(": ") {
        Some((kind, pattern)) => (kind.trim_end_matches("Condition"), pattern.trim()),
        None => ("HostWildcard", body),
    };
    let rule = Rule {
        shown: body.to_owned(),
        rule: condition(kind, pattern),
        excludes,
    };
    Some((rule, profile))
}

/// The meaning of one condition, by its type without `Condition`, or its abbreviation.
pub(super) fn condition(kind: &str, pattern: &str) -> Result<UrlRule, String> {
    match kind {
        "HostWildcard" | "HW" | "H" | "W" | "Wildcard" => host_wildcard(pattern),
        "HostRegex" | "HR" | "R" | "Regex" => UrlRule::regex(pattern, Subject::Host, pattern, true),
        "UrlWildcard" | "UW" | "U" => UrlRule::wildcard(pattern, Subject::Url, pattern, true),
        "UrlRegex" | "UR" => UrlRule::regex(pattern, Subject::Url, pattern, true),
        "Ip" | "Bypass" => ip_or_host(pattern),
        _ => Err(format!("a condition of the type {kind} is not about hosts")),
    }
}

/// `*.a` and `.a` are for `a` too, `**.a` is not; `|` separates alternatives.
fn host_wildcard(pattern: &str) -> Result<UrlRule, String> {
    if pattern.contains('|') {
        return Err("it has alternatives: write one rule for each".to_owned());
    }
    if let Some(rest) = pattern.strip_prefix("**.") {
        return UrlRule::wildcard(pattern, Subject::Host, &format!("*.{rest}"), false);
    }
    let domain = pattern
        .strip_prefix("*.")
        .or_else(|| pattern.strip_prefix('.'));
    match domain {
        Some(domain) if !domain.contains(['*', '?']) => UrlRule::domain(pattern, domain),
        _ => UrlRule::wildcard(pattern, Subject::Host, pattern, false),
    }
}

/// `10.0.0.0/8`, `<local>`, `*.a`: an address range can only be compared as text.
fn ip_or_host(pattern: &str) -> Result<UrlRule, String> {
    if pattern == "<local>" {
        return UrlRule::wildcard(pattern, Subject::Host, "localhost", false);
    }
    let Some((address, prefix)) = pattern.split_once('/') else {
        let glob = if pattern.starts_with('.') {
            format!("*{pattern}")
        } else {
            pattern.to_owned()
        };
        return UrlRule::wildcard(pattern, Subject::Host, &glob, false);
    };
    // Whole octets are wildcards of text; others would need arithmetic that the old rule cannot be compared by.
    let octets: Vec<&str> = address.split('.').collect();
    let whole = match (prefix, octets.as_slice()) {
        ("8", [a, _, _, _]) => format!("{a}.*"),
        ("16", [a, b, _, _]) => format!("{a}.{b}.*"),
        ("24", [a, b, c, _]) => format!("{a}.{b}.{c}.*"),
        ("32", _) => address.to_owned(),
        _ => return Err(format!("write the network into proxy_for: {pattern}")),
    };
    UrlRule::wildcard(pattern, Subject::Host, &whole, false)
}

/// A line of AutoProxy's format; `None` for a comment.
fn auto_proxy(line: &str) -> Option<Rule> {
    if line.starts_with('!') {
        return None;
    }
    let (excludes, body) = match line.strip_prefix("@@") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let rule = if let Some(domain) = body.strip_prefix("||") {
        UrlRule::domain(body, domain.trim_end_matches(['/', '^']))
    } else if let Some(expression) = body
        .strip_prefix('/')
        .and_then(|rest| rest.strip_suffix('/'))
    {
        UrlRule::regex(body, Subject::Url, expression, false)
    } else if let Some(start) = body.strip_prefix('|') {
        UrlRule::wildcard(body, Subject::Url, &format!("{start}*"), false)
    } else {
        Err("a keyword for any part of an address".to_owned())
    };
    Some(Rule {
        shown: body.to_owned(),
        rule,
        excludes,
    })
}
