//! A line of styled text. All text from outside is escaped here, and only here is its width counted.

use std::fmt::Write as _;

use anstyle::AnsiColor;
use tunneld_proto::text::escape_line;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Meaning of a piece of text, from which its look follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Style {
    #[default]
    Plain,
    /// A name, or a heading.
    Bold,
    /// Text of less importance, such as a hint.
    Dim,
    /// Something that works as it should.
    Good,
    /// In progress, or needs attention.
    Warn,
    /// Something that does not work.
    Bad,
}

impl Style {
    fn ansi(self) -> anstyle::Style {
        match self {
            Self::Plain => anstyle::Style::new(),
            Self::Bold => anstyle::Style::new().bold(),
            Self::Dim => anstyle::Style::new().dimmed(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
        }
    }
}

/// A line: pieces of escaped text, each with its style.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line(Vec<(Style, String)>);

impl Line {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Makes a line of one piece.
    pub(crate) fn of(style: Style, text: impl AsRef<str>) -> Self {
        Self::new().with(style, text)
    }

    /// Appends a piece; `text` is escaped.
    #[must_use]
    pub(crate) fn with(mut self, style: Style, text: impl AsRef<str>) -> Self {
        let text = escape_line(text.as_ref());
        if !text.is_empty() {
            self.0.push((style, text));
        }
        self
    }

    /// Appends a plain piece; `text` is escaped.
    #[must_use]
    pub(crate) fn and(self, text: impl AsRef<str>) -> Self {
        self.with(Style::Plain, text)
    }

    /// Appends the pieces of another line.
    #[must_use]
    pub(crate) fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Returns the width in terminal columns: wide characters count as two.
    pub(crate) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.width()).sum()
    }

    /// Cuts the line to at most `width` terminal columns; a cut line ends with `…`.
    #[must_use]
    pub(crate) fn cut(self, width: usize) -> Self {
        if self.width() <= width {
            return self;
        }
        let mut left = width.saturating_sub(1);
        let mut pieces = Vec::new();
        for (style, text) in self.0 {
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
            pieces.push((style, kept));
            if left == 0 {
                break;
            }
        }
        if width > 0 {
            pieces.push((Style::Dim, "…".to_owned()));
        }
        Self(pieces)
    }

    /// Fills the line with spaces to at least `width` terminal columns.
    #[must_use]
    pub(crate) fn pad(self, width: usize) -> Self {
        let missing = width.saturating_sub(self.width());
        self.and(" ".repeat(missing))
    }

    /// Returns the text, with ANSI sequences if `color` is set.
    pub(crate) fn paint(&self, color: bool) -> String {
        let mut out = String::new();
        for (style, text) in &self.0 {
            if color && *style != Style::Plain {
                let style = style.ansi();
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
        Self::of(Style::Plain, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_send_control_sequences() {
        let line = Line::of(Style::Bad, "a\x1b[2Jb\u{9b}c\n");
        assert_eq!(line.paint(false), "a\\u{1b}[2Jb\\u{9b}c\\u{a}");
        assert_eq!(
            line.paint(true),
            "\u{1b}[31ma\\u{1b}[2Jb\\u{9b}c\\u{a}\u{1b}[0m"
        );
    }

    #[test]
    fn width_is_counted_in_columns_before_colour() {
        let line = Line::of(Style::Good, "日本").and("go");
        assert_eq!(line.width(), 6);
        assert_eq!(line.clone().cut(6).paint(false), "日本go");
        assert_eq!(line.clone().cut(5).paint(false), "日本…");
        assert_eq!(line.clone().cut(4).paint(false), "日…");
        assert_eq!(line.clone().cut(1).paint(false), "…");
        assert_eq!(line.clone().cut(0).paint(false), "");
        assert_eq!(line.pad(8).paint(false), "日本go  ");
    }
}
