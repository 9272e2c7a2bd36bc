//! What is wrong with a configuration, where, and how it is shown: `file:line:column`, the excerpt, the remedy.

use std::fmt::Write as _;

use tunneld_proto::message::ConfigFault;

use tunneld_proto::text;

/// A stretch of bytes in one of the files that are being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Which file, by its place in the loader's list.
    pub file: usize,
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// A value, and where it was written; nowhere where it came as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub at: Option<Span>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where.
    pub at: Option<Span>,
    /// What.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A problem without a remedy of its own.
    pub fn new(at: Option<Span>, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
            help: None,
        }
    }

    /// The same problem with what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The text of a file, and where its lines begin.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: String,
    lines: Vec<usize>,
}

/// How much of a line an excerpt shows, in characters.
const EXCERPT: usize = 120;

impl Source {
    /// A file that was read.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            name: name.into(),
            text,
            lines,
        }
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte, both from 1, the column in characters.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= byte).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let column = self
            .text
            .get(start..byte)
            .map_or(1, |before| before.chars().count() + 1);
        (line, column)
    }

    /// `file:line:column` of a byte.
    pub fn place(&self, byte: usize) -> String {
        let (line, column) = self.position(byte);
        format!("{}:{line}:{column}", self.name)
    }

    /// The problem as it is told, printed, and sent.
    pub fn fault(&self, problem: &Diagnostic) -> ConfigFault {
        let place = problem.at.map(|at| self.position(at.start));
        let message = text::escape(&problem.message);
        let mut rendered = format!("error: {message}\n --> ");
        match (problem.at, place) {
            (Some(at), Some((line, column))) => {
                let _ = writeln!(rendered, "{}:{line}:{column}", text::escape(&self.name));
                self.excerpt(&mut rendered, at, line, column);
            }
            _ => {
                let _ = writeln!(rendered, "{}", text::escape(&self.name));
            }
        }
        if let Some(help) = &problem.help {
            let _ = writeln!(rendered, "  = help: {}", text::escape(help));
        }
        ConfigFault {
            file: self.name.clone(),
            line: place.map(|(line, _)| line as u64),
            column: place.map(|(_, column)| column as u64),
            message: match &problem.help {
                Some(help) => format!("{message} ({})", text::escape(help)),
                None => message,
            },
            rendered: rendered.trim_end().to_owned(),
        }
    }

    fn excerpt(&self, out: &mut String, at: Span, line: usize, column: usize) {
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let whole = self.text.get(start..).unwrap_or_default();
        let whole = whole.lines().next().unwrap_or_default();
        // A window of the line that holds the place, so that a line of a megabyte shows as a line.
        let skip = (column - 1).saturating_sub(EXCERPT / 2);
        let shown: String = whole
            .chars()
            .skip(skip)
            .take(EXCERPT)
            .map(printable)
            .collect();
        let before = column - 1 - skip;
        let marked = self
            .text
            .get(at.start..at.end)
            .map_or(1, |marked| {
                marked.lines().next().unwrap_or_default().chars().count()
            })
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

fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if text::is_unsafe(c) => '\u{fffd}',
        c => c,
    }
}

/// A fault of a file that could not be read at all.
pub fn unreadable(file: &str, message: &str, help: &str) -> ConfigFault {
    Source::new(file, "").fault(&Diagnostic::new(None, message).help(help))
}

/// The known word that was probably meant.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long words are no typing mistakes, and the distance of a megabyte takes for ever.
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
        .filter(|(candidate, distance)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(_, distance)| *distance)
        .map(|(candidate, _)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_shows_place_excerpt_and_remedy() {
        let source = Source::new("a.toml", "x = 1\r\nä = \"b\"  # c\n");
        let at = source.text().find("\"b\"").map(|start| Span {
            file: 0,
            start,
            end: start + 3,
        });
        let fault = source.fault(&Diagnostic::new(at, "no b here").help("write c"));
        assert_eq!((fault.line, fault.column), (Some(2), Some(5)));
        assert_eq!(
            fault.rendered,
            "error: no b here\n --> a.toml:2:5\n  |\n2 | ä = \"b\"  # c\n  |     ^^^\n  = help: write c"
        );
    }

    #[test]
    fn a_long_hostile_line_is_cut_and_harmless() {
        let text = format!("{}\u{1b}[31mHERE{}", "x".repeat(5_000), "y".repeat(5_000));
        let source = Source::new("a.toml", text);
        let start = source.text().find("HERE").expect("there");
        let fault = source.fault(&Diagnostic::new(
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
        let marks = lines[4].find('^').expect("marked");
        assert!(
            lines[3]
                .chars()
                .skip(marks)
                .collect::<String>()
                .starts_with("HERE")
        );
    }

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
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
