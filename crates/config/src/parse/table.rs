//! Reads one table key by key: each value parsed by its key's grammar, each error reported, no key left unread.

use std::ops::RangeInclusive;
use std::time::Duration;

use tunneld_proto::duration;

use crate::diagnostic::{Diagnostic, Span, Spanned, did_you_mean};
use crate::parse::tree::{Node, TableEntry, Value};

/// The most unknown keys of one table that are reported one by one.
const MAX_UNKNOWN_KEYS: usize = 20;

/// A table that is being read. Each method that reads a key takes its entry out; [`Table::finish`] reports the rest.
pub(crate) struct Table<'e, 'd> {
    title: String,
    entries: Vec<Option<&'e TableEntry>>,
    known_keys: Vec<&'static str>,
    diagnostics: &'d mut Vec<Diagnostic>,
}

impl<'e, 'd> Table<'e, 'd> {
    /// Starts to read a table. Messages name it by `title`; `known_keys` are suggested for a misspelled key.
    pub(crate) fn new(
        title: impl Into<String>,
        known_keys: impl IntoIterator<Item = &'static str>,
        entries: &'e [TableEntry],
        diagnostics: &'d mut Vec<Diagnostic>,
    ) -> Self {
        Self {
            title: title.into(),
            entries: entries.iter().map(Some).collect(),
            known_keys: known_keys.into_iter().collect(),
            diagnostics,
        }
    }

    /// Starts to read a table that is a value of this one.
    pub(crate) fn nested<'i>(
        &mut self,
        title: &str,
        known_keys: &[&'static str],
        entries: &'i [TableEntry],
    ) -> Table<'i, '_> {
        Table::new(title, known_keys.iter().copied(), entries, self.diagnostics)
    }

    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Reports that the value of `key` cannot be used.
    pub(crate) fn report_value(&mut self, key: &str, span: Option<Span>, error: ValueError) {
        let mut diagnostic =
            Diagnostic::new(error.span.or(span), format!("{key}: {}", error.message));
        diagnostic.help = error.help;
        self.report(diagnostic);
    }

    /// Takes an entry out; `None` if the table does not have it or it was taken before.
    pub(crate) fn entry(&mut self, key: &'static str) -> Option<&'e TableEntry> {
        // A key that is read and not in the list would never be suggested.
        debug_assert!(
            self.known_keys.contains(&key),
            "{key} is not among the known keys of {}",
            self.title
        );
        let slot = self
            .entries
            .iter_mut()
            .find(|slot| slot.is_some_and(|entry| entry.key == key))?;
        // Taken out, so that `finish` finds only the keys that were never read.
        slot.take()
    }

    /// Takes the value of a key out.
    pub(crate) fn node(&mut self, key: &'static str) -> Option<&'e Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// Reads a value with `parse`, whose errors are reported under the key's name; `None` without a usable value.
    pub(crate) fn value<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Node) -> Result<T, ValueError>,
    ) -> Option<Spanned<T>> {
        let node = self.node(key)?;
        match parse(node) {
            Ok(value) => Some(Spanned {
                value,
                span: node.span,
            }),
            Err(error) => {
                self.report_value(key, node.span, error);
                None
            }
        }
    }

    /// Reads a string with `parse`.
    pub(crate) fn text<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        self.value(key, |node| Ok(parse(string(node)?)?))
    }

    /// Reads one of these words.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<Spanned<T>> {
        self.value(key, |node| {
            let text = string(node)?;
            let known = words.iter().find(|(word, _)| *word == text);
            known
                .map(|(_, value)| *value)
                .ok_or_else(|| unknown_word(text, words.iter().map(|(word, _)| *word)))
        })
    }

    /// Reads a boolean, or ssh_config's yes and no.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<Spanned<bool>> {
        self.value(key, boolean)
    }

    /// Reads an integer within a range.
    pub(crate) fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<Spanned<i64>> {
        self.value(key, |node| integer(node, &range))
    }

    /// Reads a time within a range.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Spanned<Duration>> {
        self.value(key, |node| time(node, &range))
    }

    /// Reads one value or a list of values with `parse`; reports every item that cannot be used and keeps the others.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Node) -> Result<T, ValueError>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        self.list_or_one(key, |node, _| parse(node))
    }

    /// As [`Table::list`]; `parse` also gets whether the value is an item of a list.
    pub(crate) fn list_or_one<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Node, bool) -> Result<T, ValueError>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        let node = self.node(key)?;
        let (items, in_list) = match &node.value {
            Value::Array(items) => (items.as_slice(), true),
            // A single value is a list of one: `identity_file = "~/.ssh/id"`.
            _ => (std::slice::from_ref(node), false),
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match parse(item, in_list) {
                Ok(value) => list.push(Spanned {
                    value,
                    span: item.span,
                }),
                // The other items are still read, so that all errors of a list are shown at once.
                Err(error) => self.report_value(key, item.span, error),
            }
        }
        Some(Spanned {
            value: list,
            span: node.span,
        })
    }

    /// Reads a command: a list of the program and its arguments.
    pub(crate) fn argv(&mut self, key: &'static str) -> Option<Spanned<Vec<String>>> {
        self.value(key, argv)
    }

    /// Refuses a key that is reserved for a later version.
    pub(crate) fn reject_reserved(&mut self, key: &'static str) {
        if let Some(entry) = self.entry(key) {
            self.report(Diagnostic::new(
                entry.span,
                format!("{key} is not supported by this version of tunneld"),
            ));
        }
    }

    /// Refuses a key that only the table `home` may have.
    pub(crate) fn reject_misplaced(&mut self, key: &'static str, home: &str) {
        if let Some(entry) = self.entry(key) {
            let message = format!("{key} is not allowed in {}", self.title);
            self.report(Diagnostic::new(entry.span, message).help(format!("move it to {home}")));
        }
    }

    /// Reports every key that was not read, with the known key that was probably meant.
    pub(crate) fn finish(self) {
        for (number, entry) in self.entries.into_iter().flatten().enumerate() {
            // A file that is not a configuration would otherwise fill the screen.
            if number == MAX_UNKNOWN_KEYS {
                let message = format!(
                    "more than {MAX_UNKNOWN_KEYS} unknown keys in {}",
                    self.title
                );
                self.diagnostics.push(Diagnostic::new(entry.span, message));
                break;
            }
            let message = format!("unknown key \"{}\" in {}", entry.key, self.title);
            let mut diagnostic = Diagnostic::new(entry.span, message);
            if let Some(key) = did_you_mean(&entry.key, self.known_keys.iter().copied()) {
                diagnostic = diagnostic.help(format!("did you mean \"{key}\"?"));
            }
            self.diagnostics.push(diagnostic);
        }
    }
}

/// Why a value cannot be used. The table adds the key's name.
#[derive(Debug)]
pub(crate) struct ValueError {
    span: Option<Span>,
    message: String,
    help: Option<String>,
}

impl ValueError {
    /// Adds what the user can do about it.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Points at a part of the value instead of the whole.
    #[must_use]
    pub(crate) fn at(mut self, span: Option<Span>) -> Self {
        self.span = span;
        self
    }
}

impl From<String> for ValueError {
    fn from(message: String) -> Self {
        Self {
            span: None,
            message,
            help: None,
        }
    }
}

/// The error for a value of the wrong type.
pub(crate) fn expected(what: &str, node: &Node) -> ValueError {
    format!("expected {what}, found {}", node.value.kind()).into()
}

/// The error for a word that is none of the known ones, with the one that was probably meant.
pub(crate) fn unknown_word(
    found: &str,
    known: impl IntoIterator<Item = &'static str>,
) -> ValueError {
    let known: Vec<&str> = known.into_iter().collect();
    let quoted: Vec<String> = known.iter().map(|word| format!("\"{word}\"")).collect();
    let error = ValueError::from(format!(
        "expected {}, found \"{found}\"",
        quoted.join(" or ")
    ));
    match did_you_mean(found, known) {
        Some(word) => error.help(format!("did you mean \"{word}\"?")),
        None => error,
    }
}

/// Reads a string that is not empty and has no control characters.
pub(crate) fn string(node: &Node) -> Result<&str, ValueError> {
    let Value::String(text) = &node.value else {
        return Err(expected("a string", node));
    };
    if text.is_empty() {
        return Err("expected a string that is not empty".to_owned().into());
    }
    // Strings reach terminals, logs and the arguments of ssh, where a control character could do harm.
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(format!("contains the control character U+{:04X}", u32::from(c)).into());
    }
    Ok(text)
}

/// Reads a boolean, or ssh_config's yes and no.
pub(crate) fn boolean(node: &Node) -> Result<bool, ValueError> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            // ssh_config's words work as well, for values that were copied from it.
            "yes" | "true" => Ok(true),
            "no" | "false" => Ok(false),
            _ => Err(format!("expected true or false, found \"{text}\"").into()),
        },
        _ => Err(expected("true or false", node)),
    }
}

/// Reads an integer within a range, also from a string of digits, as ssh_config would have it.
pub(crate) fn integer(node: &Node, range: &RangeInclusive<i64>) -> Result<i64, ValueError> {
    let wanted = format!("an integer from {} to {}", range.start(), range.end());
    let number = match &node.value {
        Value::Integer(number) => *number,
        Value::String(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            // Digits only, so the one error is a number beyond 64 bits.
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

/// Reads a time in ssh_config's grammar, or seconds as an integer, within a range.
pub(crate) fn time(node: &Node, range: &RangeInclusive<Duration>) -> Result<Duration, ValueError> {
    let wanted = time_range(range);
    let time = match &node.value {
        // A number without a unit is in seconds, as in ssh_config.
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

/// Reads a time that may also be in milliseconds: for keys of tunneld's own, where no grammar of ssh_config is given.
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
        Err(format!("expected {}, found {millis}ms", time_range(range)).into())
    }
}

fn time_range(range: &RangeInclusive<Duration>) -> String {
    let shown = |time: Duration| {
        if time.subsec_millis() == 0 {
            duration::Display(time).to_string()
        } else {
            format!("{time:?}")
        }
    };
    format!(
        "a time from {} to {}",
        shown(*range.start()),
        shown(*range.end())
    )
}

/// Reads a command: a list of the program and its arguments.
pub(crate) fn argv(node: &Node) -> Result<Vec<String>, ValueError> {
    let Value::Array(items) = &node.value else {
        return Err(
            expected("a list of a command and its arguments", node).help(
                "no shell is run: write [\"command\", \"argument\"], or [\"sh\", \"-c\", \"…\"]",
            ),
        );
    };
    let mut argv = Vec::with_capacity(items.len());
    for item in items {
        match &item.value {
            // An argument of exec(3) ends at its first NUL.
            Value::String(text) if text.contains('\0') => {
                return Err(ValueError::from("contains a NUL byte".to_owned()).at(item.span));
            }
            Value::String(text) => argv.push(text.clone()),
            _ => return Err(expected("a string", item).at(item.span)),
        }
    }
    if argv.first().is_none_or(String::is_empty) {
        return Err("the command is missing".to_owned().into());
    }
    Ok(argv)
}
