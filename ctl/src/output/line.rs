//! A line of text in its colours. The one place where what others wrote is escaped, and where width is counted.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use tunneld_proto::text::escape_line;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What a text is, in place of how it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Ink {
    /// Nothing special.
    #[default]
    Plain,
    /// A heading or name.
    Bold,
    /// Of less weight.
    Dim,
    /// As it should be.
    Good,
    /// On its way, or in need of a look.
    Warn,
    /// Broken.
    Bad,
}

impl Ink {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Bold => Style::new().bold(),
            Self::Dim => Style::new().dimmed(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
        }
    }
}

/// A line: pieces of escaped text, each with its ink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line(Vec<(Ink, String)>);

impl Line {
    /// An empty line.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A line of one piece.
    pub(crate) fn of(ink: Ink, text: impl AsRef<str>) -> Self {
        Self::new().with(ink, text)
    }

    /// The same line and a piece.
    #[must_use]
    pub(crate) fn with(mut self, ink: Ink, text: impl AsRef<str>) -> Self {
        let text = escape_line(text.as_ref());
        if !text.is_empty() {
            self.0.push((ink, text));
        }
        self
    }

    /// The same line and a plain piece.
    #[must_use]
    pub(crate) fn and(self, text: impl AsRef<str>) -> Self {
        self.with(Ink::Plain, text)
    }

    /// The same line and another's pieces.
    #[must_use]
    pub(crate) fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The columns it takes.
    pub(crate) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.width()).sum()
    }

    /// The same line in at most `width` columns, with an ellipsis where something is left out.
    #[must_use]
    pub(crate) fn cut(self, width: usize) -> Self {
        if self.width() <= width {
            return self;
        }
        let mut left = width.saturating_sub(1);
        let mut pieces = Vec::new();
        for (ink, text) in self.0 {
            let mut kept = String::new();
            for c in text.chars() {
                let columns = c.width().unwrap_or(0);
                if columns > left {
                    left = 0;
                    break;
                }
                left -= columns;
                kept.push(c);
            }
            pieces.push((ink, kept));
            if left == 0 {
                break;
            }
        }
        if width > 0 {
            pieces.push((Ink::Dim, "…".to_owned()));
        }
        Self(pieces)
    }

    /// The same line in at least `width` columns.
    #[must_use]
    pub(crate) fn pad(self, width: usize) -> Self {
        let missing = width.saturating_sub(self.width());
        self.and(" ".repeat(missing))
    }

    /// The text, with or without colour.
    pub(crate) fn paint(&self, color: bool) -> String {
        let mut out = String::new();
        for (ink, text) in &self.0 {
            if color && *ink != Ink::Plain {
                let style = ink.style();
                // Writing to a String cannot fail.
                let _ = write!(out, "{style}{text}{style:#}");
            } else {
                out.push_str(text);
            }
        }
        out
    }
}

impl<T: AsRef<str>> From<T> for Line {
    fn from(text: T) -> Self {
        Self::of(Ink::Plain, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_colour() {
        let line = Line::of(Ink::Bad, "a\x1b[2Jb\u{9b}c\n");
        assert_eq!(line.paint(false), "a\\u{1b}[2Jb\\u{9b}c\\u{a}");
        assert_eq!(
            line.paint(true),
            "\u{1b}[31ma\\u{1b}[2Jb\\u{9b}c\\u{a}\u{1b}[0m"
        );
    }

    #[test]
    fn width_is_counted_in_columns_before_colour() {
        let line = Line::of(Ink::Good, "日本").and("go");
        assert_eq!(line.width(), 6);
        assert_eq!(line.clone().cut(6).paint(false), "日本go");
        assert_eq!(line.clone().cut(5).paint(false), "日本…");
        assert_eq!(line.clone().cut(4).paint(false), "日…");
        assert_eq!(line.clone().cut(1).paint(false), "…");
        assert_eq!(line.clone().cut(0).paint(false), "");
        assert_eq!(line.pad(8).paint(false), "日本go  ");
    }
}
