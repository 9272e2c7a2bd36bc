//! Errors in a configuration: what is wrong and where, and how it is shown: `file:line:column`, an excerpt, the help.

use std::fmt::Write as _;

use tunneld_proto::message::ConfigFault;
use tunneld_proto::text;

/// A range of bytes in one of the files of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The file, by the number that the loader gave it.
    pub file: usize,
    /// The offset of the first byte.
    pub start: usize,
    /// The offset after the last byte.
    pub end: usize,
}

/// A value and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value, checked by its key's grammar.
    pub value: T,
    /// Where it is written; `None` if it came as JSON or from ssh_config.
    pub span: Option<Span>,
}

/// One error in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where it is; `None` if it has no place in a file.
    pub span: Option<Span>,
    /// What is wrong, under the key's name if it is about one.
    pub message: String,
    /// What the user can do about it; `None` if the message says it.
    pub help: Option<String>,
    /// The ssh_config file that the error is about; `None` if it is about the TOML. Every tunnel that reads the file
    /// has the same error, which is shown once.
    pub ssh_config: Option<String>,
}

impl Diagnostic {
    /// An error without help, which [`Diagnostic::help`] can add.
    pub fn new(span: Option<Span>, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            help: None,
            ssh_config: None,
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Joins the messages of several errors, for places with room for one text.
    pub(crate) fn join(diagnostics: &[Self]) -> String {
        let messages: Vec<&str> = diagnostics.iter().map(|one| one.message.as_str()).collect();
        messages.join("; ")
    }
}

/// The text of a file, with the offsets of its lines.
#[derive(Debug, Clone)]
pub struct SourceText {
    name: String,
    text: String,
    line_starts: Vec<usize>,
}

/// The longest excerpt of a line, in characters.
const MAX_EXCERPT: usize = 120;

impl SourceText {
    /// The text of the file `name`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            name: name.into(),
            text,
            line_starts,
        }
    }

    /// The file's name, as messages show it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's text, as it was parsed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let line = self
            .line_starts
            .partition_point(|start| *start <= byte)
            .max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let column = self
            .text
            .get(start..byte)
            .map_or(1, |before| before.chars().count() + 1);
        (line, column)
    }

    /// `file:line:column` of a span, or the file's name without one.
    pub fn location(&self, span: Option<Span>) -> String {
        let Some(span) = span else {
            return self.name.clone();
        };
        let (line, column) = self.position(span.start);
        format!("{}:{line}:{column}", self.name)
    }

    /// Renders an error for the log, the terminal and the wire.
    pub fn to_fault(&self, diagnostic: &Diagnostic) -> ConfigFault {
        let position = diagnostic.span.map(|span| self.position(span.start));
        let message = text::escape(&diagnostic.message);
        let mut rendered = format!("error: {message}\n --> ");
        match (diagnostic.span, position) {
            (Some(span), Some((line, column))) => {
                let _ = writeln!(rendered, "{}:{line}:{column}", text::escape(&self.name));
                self.write_excerpt(&mut rendered, span, line, column);
            }
            _ => {
                let _ = writeln!(rendered, "{}", text::escape(&self.name));
            }
        }
        if let Some(help) = &diagnostic.help {
            let _ = writeln!(rendered, "  = help: {}", text::escape(help));
        }
        ConfigFault {
            file: self.name.clone(),
            line: position.map(|(line, _)| line as u64),
            column: position.map(|(_, column)| column as u64),
            message: match &diagnostic.help {
                Some(help) => format!("{message} ({})", text::escape(help)),
                None => message,
            },
            rendered: rendered.trim_end().to_owned(),
        }
    }

    /// Writes the line of the span with `^` under the span.
    fn write_excerpt(&self, out: &mut String, span: Span, line: usize, column: usize) {
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let whole = self.text.get(start..).unwrap_or_default();
        let whole = whole.lines().next().unwrap_or_default();
        // Only a window around the column: a line may have a megabyte.
        let skip = (column - 1).saturating_sub(MAX_EXCERPT / 2);
        let shown: String = whole
            .chars()
            .skip(skip)
            .take(MAX_EXCERPT)
            .map(printable)
            .collect();
        let before = column - 1 - skip;
        let marked = self
            .text
            .get(span.start..span.end)
            .map_or(1, |marked| {
                marked.lines().next().unwrap_or_default().chars().count()
            })
            // Never longer than the excerpt: the span may cover many lines.
            .clamp(1, shown.chars().count().saturating_sub(before).max(1));
        let number = line.to_string();
        let pad = " ".repeat(number.len());
        let _ = writeln!(
            out,
            "{pad} |\n{number} | {shown}\n{pad} | {}{}",
            " ".repeat(before),
            "^".repeat(marked)
        );
    }
}

/// One character for one, so that the `^` below still point at the right columns.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if text::is_unsafe(c) => '\u{fffd}',
        c => c,
    }
}

/// An error about a file or folder as a whole.
pub fn file_fault(file: &str, message: &str, help: &str) -> ConfigFault {
    SourceText::new(file, "").to_fault(&Diagnostic::new(None, message).help(help))
}

/// The known word that was probably meant; `None` if none is similar. Case, `-` and `_` do not count.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The edit distance is quadratic: a word of a megabyte would take hours, and is not a typing mistake.
    if word.len() > 64 {
        return None;
    }
    let folded = word.to_ascii_lowercase().replace('-', "_");
    let squeezed = folded.replace('_', "");
    known
        .into_iter()
        .map(|candidate| {
            let same = candidate.replace('_', "") == squeezed;
            (
                candidate,
                if same {
                    0
                } else {
                    strsim::damerau_levenshtein(&folded, candidate)
                },
            )
        })
        // About one wrong letter in four: more would suggest words that are only of a similar length.
        .filter(|(candidate, distance)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(_, distance)| *distance)
        .map(|(candidate, _)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_shows_its_location_an_excerpt_and_the_help() {
        let source = SourceText::new("a.toml", "x = 1\r\nä = \"b\"  # c\n");
        let at = source.text().find("\"b\"").map(|start| Span {
            file: 0,
            start,
            end: start + 3,
        });
        let fault = source.to_fault(&Diagnostic::new(at, "no b here").help("write c"));
        assert_eq!((fault.line, fault.column), (Some(2), Some(5)));
        assert_eq!(
            fault.rendered,
            "error: no b here\n --> a.toml:2:5\n  |\n2 | ä = \"b\"  # c\n  |     ^^^\n  = help: write c"
        );
    }

    #[test]
    fn a_long_line_with_control_characters_is_shortened_and_escaped() {
        let text = format!("{}\u{1b}[31mHERE{}", "x".repeat(5_000), "y".repeat(5_000));
        let source = SourceText::new("a.toml", text);
        let start = source.text().find("HERE").unwrap();
        let fault = source.to_fault(&Diagnostic::new(
            Some(Span {
                file: 0,
                start,
                end: start + 4,
            }),
            "m\u{9b}",
        ));
        assert!(fault.rendered.len() < 500, "{}", fault.rendered.len());
        assert!(fault.rendered.chars().all(|c| c == '\n' || !c.is_control()));
        let lines: Vec<&str> = fault.rendered.lines().collect();
        let marks = lines[4].find('^').unwrap();
        assert!(
            lines[3]
                .chars()
                .skip(marks)
                .collect::<String>()
                .starts_with("HERE")
        );
    }

    #[test]
    fn similar_words_are_suggested_and_others_are_not() {
        let known = ["host", "identity_file", "server_alive_interval"];
        assert_eq!(did_you_mean("hots", known), Some("host"));
        assert_eq!(did_you_mean("IdentityFile", known), Some("identity_file"));
        assert_eq!(
            did_you_mean("ServerAliveIntervall", known),
            Some("server_alive_interval")
        );
        assert_eq!(did_you_mean("zzz", known), None);
    }
}
