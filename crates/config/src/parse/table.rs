//! Reads one table key by key: each value proved by its key's grammar, each fault noted, no key left unread.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::diagnostic::{At, Diagnostic, Span, did_you_mean};
use crate::parse::tree::{Entry, Node, Value};
use tunneld_proto::duration;

/// How many unknown keys of one table are told one by one.
const MOST_UNKNOWN: usize = 20;

/// A table that is being read.
pub(crate) struct Table<'e, 'p> {
    title: String,
    entries: Vec<Option<&'e Entry>>,
    known: Vec<&'static str>,
    problems: &'p mut Vec<Diagnostic>,
}

impl<'e, 'p> Table<'e, 'p> {
    /// Begins to read a table; `title` names it in messages.
    pub(crate) fn new(
        title: impl Into<String>,
        entries: &'e [Entry],
        problems: &'p mut Vec<Diagnostic>,
    ) -> Self {
        Self {
            title: title.into(),
            entries: entries.iter().map(Some).collect(),
            known: Vec::new(),
            problems,
        }
    }

    /// Notes a problem.
    pub(crate) fn problem(&mut self, problem: Diagnostic) {
        self.problems.push(problem);
    }

    /// The place of a key, whether it was read or not.
    pub(crate) fn node(&mut self, key: &'static str) -> Option<&'e Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// Takes an entry out.
    pub(crate) fn entry(&mut self, key: &'static str) -> Option<&'e Entry> {
        self.known.push(key);
        let slot = self
            .entries
            .iter_mut()
            .find(|slot| slot.is_some_and(|entry| entry.key == key))?;
        slot.take()
    }

    /// A value that `prove` accepts; what it says stands behind the key's name.
    pub(crate) fn proved<T>(
        &mut self,
        key: &'static str,
        prove: impl FnOnce(&Node) -> Result<T, ValueError>,
    ) -> Option<At<T>> {
        let node = self.node(key)?;
        match prove(node) {
            Ok(value) => Some(At { value, at: node.at }),
            Err(wrong) => {
                self.wrong(key, node.at, wrong);
                None
            }
        }
    }

    /// Notes why a key's value does not do, and gives nothing.
    pub(crate) fn refused<T>(
        &mut self,
        key: &str,
        at: Option<Span>,
        wrong: ValueError,
    ) -> Option<T> {
        self.wrong(key, at, wrong);
        None
    }

    /// Notes why a value does not do.
    pub(crate) fn refuse(&mut self, key: &str, at: Option<Span>, wrong: ValueError) {
        self.wrong(key, at, wrong);
    }

    /// Begins to read a table that stands in this one.
    pub(crate) fn inner<'i>(&mut self, title: &str, entries: &'i [Entry]) -> Table<'i, '_> {
        Table::new(title, entries, self.problems)
    }

    fn wrong(&mut self, key: &str, at: Option<Span>, wrong: ValueError) {
        let mut problem = Diagnostic::new(wrong.at.or(at), format!("{key}: {}", wrong.message));
        problem.help = wrong.help;
        self.problems.push(problem);
    }

    /// A string that `prove` accepts.
    pub(crate) fn text<T>(
        &mut self,
        key: &'static str,
        prove: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        self.proved(key, |node| Ok(prove(string(node)?)?))
    }

    /// A boolean, or ssh_config's yes and no.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<At<bool>> {
        self.proved(key, boolean)
    }

    /// An integer within a range.
    pub(crate) fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<At<i64>> {
        self.proved(key, |node| integer(node, &range))
    }

    /// A time within a range.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<At<Duration>> {
        self.proved(key, |node| time(node, &range))
    }

    /// A string or a list of strings, each proved; every wrong one is told.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        prove: impl Fn(&Node) -> Result<T, ValueError>,
    ) -> Option<At<Vec<At<T>>>> {
        let node = self.node(key)?;
        let items = match &node.value {
            Value::Array(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match prove(item) {
                Ok(value) => list.push(At { value, at: item.at }),
                Err(wrong) => self.wrong(key, item.at, wrong),
            }
        }
        Some(At {
            value: list,
            at: node.at,
        })
    }

    /// A command: a list of its name and its arguments.
    pub(crate) fn argv(&mut self, key: &'static str) -> Option<At<Vec<String>>> {
        self.proved(key, argv)
    }

    /// A key that a later version brings.
    pub(crate) fn unsupported(&mut self, key: &'static str) {
        if let Some(entry) = self.entry(key) {
            self.problem(Diagnostic::new(
                entry.at,
                format!("{key} is not supported by this version of tunneld"),
            ));
        }
    }

    /// A key that belongs elsewhere.
    pub(crate) fn misplaced(&mut self, key: &'static str, home: &str) {
        if let Some(entry) = self.entry(key) {
            let message = format!("{key} has no place in {}", self.title);
            self.problem(
                Diagnostic::new(entry.at, message).help(format!("it belongs into {home}")),
            );
        }
    }

    /// Tells of every key that nobody has asked for.
    pub(crate) fn finish(self) {
        for (number, entry) in self.entries.into_iter().flatten().enumerate() {
            if number == MOST_UNKNOWN {
                let message = format!("more than {MOST_UNKNOWN} unknown keys in {}", self.title);
                self.problems.push(Diagnostic::new(entry.at, message));
                break;
            }
            let message = format!("unknown key \"{}\" in {}", entry.key, self.title);
            let mut problem = Diagnostic::new(entry.at, message);
            if let Some(meant) = did_you_mean(&entry.key, self.known.iter().copied()) {
                problem = problem.help(format!("did you mean \"{meant}\"?"));
            }
            self.problems.push(problem);
        }
    }
}

/// Why a value does not do.
#[derive(Debug)]
pub(crate) struct ValueError {
    at: Option<Span>,
    message: String,
    help: Option<String>,
}

impl ValueError {
    /// The same with what to do.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same about a part of the value.
    #[must_use]
    pub(crate) fn at(mut self, at: Option<Span>) -> Self {
        self.at = at;
        self
    }
}

impl From<String> for ValueError {
    fn from(message: String) -> Self {
        Self {
            at: None,
            message,
            help: None,
        }
    }
}

/// What was expected and what stands there.
pub(crate) fn expected(what: &str, node: &Node) -> ValueError {
    format!("expected {what}, found {}", node.value.kind()).into()
}

/// A string without control characters, not empty.
pub(crate) fn string(node: &Node) -> Result<&str, ValueError> {
    let Value::String(text) = &node.value else {
        return Err(expected("a string", node));
    };
    if text.is_empty() {
        return Err("expected a string that is not empty".to_owned().into());
    }
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(format!("holds the control character U+{:04X}", u32::from(c)).into());
    }
    Ok(text)
}

/// A boolean, or ssh_config's yes and no.
pub(crate) fn boolean(node: &Node) -> Result<bool, ValueError> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "true" => Ok(true),
            "no" | "false" => Ok(false),
            _ => Err(format!("expected true or false, found \"{text}\"").into()),
        },
        _ => Err(expected("true or false", node)),
    }
}

/// An integer within a range, also as the digits of a string.
pub(crate) fn integer(node: &Node, range: &RangeInclusive<i64>) -> Result<i64, ValueError> {
    let wanted = format!("an integer from {} to {}", range.start(), range.end());
    let number = match &node.value {
        Value::Integer(number) => *number,
        Value::String(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().unwrap_or(i64::MAX)
        }
        Value::String(text) => return Err(format!("expected {wanted}, found \"{text}\"").into()),
        _ => return Err(expected(&wanted, node)),
    };
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!("expected {wanted}, found {number}").into())
    }
}

/// A time within a range.
pub(crate) fn time(node: &Node, range: &RangeInclusive<Duration>) -> Result<Duration, ValueError> {
    let wanted = format!(
        "a time from {} to {}",
        shown(*range.start()),
        shown(*range.end())
    );
    let time = match &node.value {
        Value::Integer(seconds) => match u64::try_from(*seconds) {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => return Err(format!("expected {wanted}, found {seconds}").into()),
        },
        Value::String(text) => duration::parse(text).map_err(|error| {
            ValueError::from(format!("\"{text}\": {error}; expected {wanted}"))
                .help(duration::GRAMMAR)
        })?,
        _ => return Err(expected(&wanted, node).help(duration::GRAMMAR)),
    };
    if range.contains(&time) {
        Ok(time)
    } else {
        Err(format!("expected {wanted}, found {}", duration::Display(time)).into())
    }
}

fn shown(time: Duration) -> String {
    if time.subsec_millis() == 0 {
        duration::Display(time).to_string()
    } else {
        format!("{time:?}")
    }
}

/// A time of tunneld's own, where ssh has no such keyword: also in milliseconds.
pub(crate) fn short_time(
    node: &Node,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, ValueError> {
    let millis = match &node.value {
        Value::String(text) => text.strip_suffix("ms").and_then(|n| n.parse::<u32>().ok()),
        _ => None,
    };
    let Some(millis) = millis else {
        return time(node, range);
    };
    let time = Duration::from_millis(millis.into());
    if range.contains(&time) {
        Ok(time)
    } else {
        Err(format!(
            "expected a time from {} to {}, found {millis}ms",
            shown(*range.start()),
            shown(*range.end())
        )
        .into())
    }
}

/// A command: a list of its name and its arguments.
pub(crate) fn argv(node: &Node) -> Result<Vec<String>, ValueError> {
    let Value::Array(items) = &node.value else {
        return Err(
            expected("a list of a command and its arguments", node).help(
                "no shell is run; write [\"command\", \"argument\"], or [\"sh\", \"-c\", \"…\"]",
            ),
        );
    };
    let mut argv = Vec::with_capacity(items.len());
    for item in items {
        match &item.value {
            Value::String(text) if text.contains('\0') => {
                return Err(ValueError::from("holds a NUL".to_owned()).at(item.at));
            }
            Value::String(text) => argv.push(text.clone()),
            _ => return Err(expected("a string", item).at(item.at)),
        }
    }
    if argv.first().is_none_or(String::is_empty) {
        return Err("the command is missing".to_owned().into());
    }
    Ok(argv)
}
