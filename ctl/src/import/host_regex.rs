//! Regular expressions that are about hosts: the few forms that people write, as wildcards. Anything else is refused; the
//! result is compared with the expression itself in `url_rule`.

use super::rule_subject::Subject;

/// The most wildcards that one expression becomes.
const MAX_SHAPES: usize = 8;

/// Ways to write the scheme, and the wildcard of each.
const SCHEMES: &[(&str, &str)] = &[
    ("https?://", "*://"),
    ("http(s)?://", "*://"),
    ("http(s|)://", "*://"),
    ("(?:https?)://", "*://"),
    ("(https?)://", "*://"),
    ("(?:http|https)://", "*://"),
    ("(http|https)://", "*://"),
    (".*://", "*://"),
    (".+://", "*://"),
    ("[^:]+://", "*://"),
    ("[^:]*://", "*://"),
    ("[^:/]+://", "*://"),
    ("[a-z]+://", "*://"),
    ("\\w+://", "*://"),
    ("http://", "http://"),
    ("https://", "https://"),
];

/// What may stand at the end, behind the host.
const ENDS: &[&str] = &[
    "/",
    "/.*",
    "/.*$",
    "/?.*",
    "(/.*)?$",
    "(?:/.*)?$",
    "(:\\d+)?(/.*)?$",
    "(?::\\d+)?(?:/.*)?$",
    "(:\\d+)?/",
    "(:\\d+)?/.*",
    "(:\\d+)?/.*$",
    "(?::\\d+)?/.*",
    "(?::\\d+)?/",
    "(:[0-9]+)?/.*",
    "(:[0-9]+)?/",
    "(:|/|$)",
    "(:|/)",
    "(?::|/|$)",
    "[:/]",
    "(/|$)",
    "(/|:)",
    "(/|:|$)",
];

/// Parts of an expression and the wildcards that each may be.
const PARTS: &[(&str, &[&str])] = &[
    ("(.*\\.)?", &["", "*."]),
    ("(?:.*\\.)?", &["", "*."]),
    ("(.+\\.)?", &["", "*."]),
    ("(?:.+\\.)?", &["", "*."]),
    ("([^/]+\\.)?", &["", "*."]),
    ("(?:[^/]+\\.)?", &["", "*."]),
    ("([^/]*\\.)?", &["", "*."]),
    ("([^/:]+\\.)?", &["", "*."]),
    ("(?:[^:/]+\\.)?", &["", "*."]),
    ("([\\w-]+\\.)*", &["", "*."]),
    ("(?:[\\w-]+\\.)*", &["", "*."]),
    ("([a-z0-9-]+\\.)*", &["", "*."]),
    ("(?:[a-z0-9-]+\\.)*", &["", "*."]),
    ("(^|\\.)", &["", "*."]),
    ("(?:^|\\.)", &["", "*."]),
    ("[^/:]+", &["*"]),
    ("[^/:]*", &["*"]),
    ("[^:/]+", &["*"]),
    ("[^:/]*", &["*"]),
    ("[^/]+", &["*"]),
    ("[^/]*", &["*"]),
    ("[\\w.-]+", &["*"]),
    ("[\\w.-]*", &["*"]),
    ("[a-z0-9.-]+", &["*"]),
    ("\\S*", &["*"]),
    ("\\S+", &["*"]),
    (".*", &["*"]),
    (".+", &["*"]),
    ("[.]", &["."]),
    ("\\.", &["."]),
    ("\\-", &["-"]),
];

/// Returns wildcards that together mean the expression; `None` if it is not one of the known forms.
pub(super) fn shapes(pattern: &str, subject: Subject) -> Option<Vec<String>> {
    let pattern = pattern.replace("\\/", "/");
    let (mut shapes, mut rest) = start(&pattern, subject)?;
    while !rest.is_empty() {
        if rest == "$" && subject == Subject::Host {
            return Some(shapes);
        }
        if subject == Subject::Url && ENDS.contains(&rest) {
            each(&mut shapes, &["/*"])?;
            return Some(merged(shapes));
        }
        rest = part(&mut shapes, rest)?;
    }
    each(&mut shapes, &["*"])?;
    Some(merged(shapes))
}

/// The wildcards of what is before the host, and the rest of the expression.
fn start(pattern: &str, subject: Subject) -> Option<(Vec<String>, &str)> {
    let (anchored, rest) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let schemes = SCHEMES.iter().filter(|_| subject == Subject::Url);
    let mut schemes = schemes.filter_map(|(text, glob)| Some((rest.strip_prefix(text)?, *glob)));
    if let Some((behind, glob)) = schemes.next() {
        return Some((vec![glob.to_owned()], behind));
    }
    let from_label = rest.starts_with("(^|") || rest.starts_with("(?:^|");
    let front = match subject {
        // Without a scheme, only an expression that may begin anywhere can match the host.
        Subject::Url if anchored && !rest.starts_with(".*") => return None,
        Subject::Host if from_label => "",
        _ if anchored => "",
        _ => "*",
    };
    Some((vec![front.to_owned()], rest))
}

/// Appends the next part of the expression and returns what is behind it.
fn part<'a>(shapes: &mut Vec<String>, rest: &'a str) -> Option<&'a str> {
    let mut parts = PARTS
        .iter()
        .filter_map(|(text, globs)| Some((rest.strip_prefix(text)?, *globs)));
    if let Some((behind, globs)) = parts.next() {
        each(shapes, globs)?;
        return Some(behind);
    }
    let mut chars = rest.chars();
    let c = chars.next()?;
    // A character that is repeated is no plain host.
    if rest.get(1..2).is_some_and(|next| "*+?{".contains(next)) {
        return None;
    }
    match c {
        '.' => each(shapes, &["?"])?,
        c if c.is_ascii_alphanumeric() || "-_".contains(c) => {
            each(shapes, &[c.encode_utf8(&mut [0; 4])])?
        }
        _ => return None,
    }
    Some(chars.as_str())
}

/// `*` at both the end of one part and the start of the next is one.
fn merged(shapes: Vec<String>) -> Vec<String> {
    shapes
        .into_iter()
        .map(|shape| shape.replace("**", "*"))
        .collect()
}

/// Appends each of the alternatives to each shape.
fn each(shapes: &mut Vec<String>, alternatives: &[&str]) -> Option<()> {
    let mut all = Vec::new();
    for shape in shapes.iter() {
        for alternative in alternatives {
            all.push(format!("{shape}{alternative}"));
        }
    }
    *shapes = all;
    (shapes.len() <= MAX_SHAPES).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_expressions_become_wildcards_and_others_do_not() {
        for (pattern, subject, expected) in [
            (
                "^https?://(.*\\.)?example\\.com/",
                Subject::Url,
                Some("*://example.com/*,*://*.example.com/*"),
            ),
            ("^http:\\/\\/10\\..*", Subject::Url, Some("http://10.*")),
            (
                ".*\\.compute\\.internal.*",
                Subject::Url,
                Some("*.compute.internal*"),
            ),
            (
                "(^|\\.)example\\.com$",
                Subject::Host,
                Some("example.com,*.example.com"),
            ),
            ("^a.b$", Subject::Host, Some("a?b")),
            ("example\\.com", Subject::Host, Some("*example.com*")),
            ("^(?!x)a", Subject::Host, None),
            ("^a{1000}$", Subject::Host, None),
            ("(a|b)\\.com", Subject::Host, None),
            ("^example\\.com", Subject::Url, None),
            ("^https?://[^/]+/path", Subject::Url, None),
            ("a+", Subject::Host, None),
        ] {
            let shapes = shapes(pattern, subject).map(|shapes| shapes.join(","));
            assert_eq!(shapes.as_deref(), expected, "{pattern}");
        }
        assert_eq!(shapes(&"(.*\\.)?".repeat(9), Subject::Host), None);
    }
}
