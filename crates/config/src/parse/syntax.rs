//! Syntax errors of a file: which of those that the TOML parser reports is shown, and where.

use crate::diagnostic::{Diagnostic, Span};
use crate::parse::tree::{Node, TableEntry, Value};

/// Reduces the parser's errors to those that the user can act on: the first one, since what follows it is misread, or
/// else each name that is defined twice. Returns whether the text could be read as a whole.
pub(crate) fn reduce(
    file: usize,
    text: &str,
    root: &Node,
    errors: Vec<Diagnostic>,
) -> (Vec<Diagnostic>, bool) {
    let (twice, wrong): (Vec<_>, Vec<_>) = errors
        .into_iter()
        .partition(|error| error.message.contains("duplicate key"));
    let first = wrong.into_iter().min_by_key(|error| error.span);
    let Some(first) = first else {
        return (with_both_places(text, root, twice), true);
    };
    let start = first.span.map_or(0, |span| span.start);
    // The parser notices a missing bracket only at the next key, which may be many lines below.
    let error = match unclosed_bracket(text) {
        Some((at, bracket)) if at <= start => {
            let span = Span {
                file,
                start: at,
                end: at + 1,
            };
            let close = if bracket == '[' { ']' } else { '}' };
            Diagnostic::new(Some(span), format!("`{bracket}` is not closed"))
                .help(format!("add the missing `{close}`"))
        }
        _ => first,
    };
    (vec![error], false)
}

/// One error for each name that is defined twice, with the line of the first definition.
fn with_both_places(text: &str, root: &Node, errors: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    // The end of the last table that is defined twice: its keys are not further mistakes.
    let mut table_end = 0;
    for error in errors {
        let Some(span) = error.span else {
            found.push(error);
            continue;
        };
        if span.start < table_end {
            continue;
        }
        let key = text.get(span.start..span.end).unwrap_or_default();
        let key = key.trim_matches(['"', '\'']);
        let header = same_header_before(text, span.start);
        if header.is_some() {
            let after = text.get(span.end..).unwrap_or_default();
            table_end = span.end + after.find("\n[").unwrap_or(after.len());
        }
        let Some(first) = header.or_else(|| definition_before(root, key, span.start)) else {
            found.push(error);
            continue;
        };
        let line = text.get(..first).unwrap_or_default().matches('\n').count() + 1;
        let message = format!("\"{key}\" is defined twice: also at line {line}");
        found.push(Diagnostic::new(Some(span), message).help("rename or remove one"));
    }
    found
}

/// Where the `[table]` at `at` is first written; `None` if there is no such line there or before.
fn same_header_before(text: &str, at: usize) -> Option<usize> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let header = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let name: String = line.split_whitespace().collect();
        Some(name).filter(|name| name.starts_with('['))
    };
    let wanted = header(text.get(start..)?.lines().next()?)?;
    let mut line_start = 0;
    for line in text.get(..start)?.split_inclusive('\n') {
        if header(line).as_ref() == Some(&wanted) {
            return Some(line_start);
        }
        line_start += line.len();
    }
    None
}

/// Where a key of this name is written last before `end`.
fn definition_before(node: &Node, key: &str, end: usize) -> Option<usize> {
    let of_entry = |entry: &TableEntry| {
        let own = entry.span.map(|span| span.start);
        let own = own.filter(|start| entry.key == key && *start < end);
        own.max(definition_before(&entry.node, key, end))
    };
    match &node.value {
        Value::Table(entries) => entries.iter().filter_map(of_entry).max(),
        Value::Array(items) => {
            let starts = items.iter().map(|item| definition_before(item, key, end));
            starts.max().flatten()
        }
        _ => None,
    }
}

/// The first bracket that is not closed before the next key or the end, and its place.
fn unclosed_bracket(text: &str) -> Option<(usize, char)> {
    let mut open: Vec<(usize, char)> = Vec::new();
    let mut header = false;
    let mut line_is_blank = true;
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\n' => {
                // The name of a table ends in its line.
                if header && !open.is_empty() {
                    break;
                }
                line_is_blank = true;
                continue;
            }
            ' ' | '\t' | '\r' => continue,
            '#' => {
                let length = rest.as_str().find('\n').unwrap_or(rest.as_str().len());
                // At the end of the line, which the next round sees.
                skip_to(&mut rest, at + 1 + length);
            }
            '"' | '\'' => {
                let end = string_end(text, at, c);
                skip_to(&mut rest, end);
            }
            '[' | '{' => {
                if open.is_empty() {
                    header = c == '[' && line_is_blank;
                }
                open.push((at, c));
            }
            ']' | '}' => {
                open.pop();
            }
            // A key inside a list: the list should have ended before it.
            '=' if open.last().is_some_and(|(_, bracket)| *bracket == '[') => break,
            _ => {}
        }
        line_is_blank = false;
    }
    open.first().copied()
}

fn skip_to(rest: &mut std::str::CharIndices<'_>, offset: usize) {
    while rest.offset() < offset && rest.next().is_some() {}
}

/// Where the string that begins at `start` ends; an open one-line string ends with its line.
fn string_end(text: &str, start: usize, quote: char) -> usize {
    let triple: String = [quote; 3].iter().collect();
    let rest = text.get(start..).unwrap_or_default();
    let (mark, multiline) = if rest.starts_with(&triple) {
        (triple.as_str(), true)
    } else {
        (triple.get(..1).unwrap_or_default(), false)
    };
    let mut at = mark.len();
    while let Some(c) = rest.get(at..).and_then(|rest| rest.chars().next()) {
        if rest.get(at..).is_some_and(|rest| rest.starts_with(mark)) {
            return start + at + mark.len();
        }
        if c == '\n' && !multiline {
            return start + at;
        }
        at += c.len_utf8();
        if c == '\\' && quote == '"' {
            at += rest
                .get(at..)
                .and_then(|rest| rest.chars().next())
                .filter(|next| *next != '\n')
                .map_or(0, char::len_utf8);
        }
    }
    text.len()
}
