//! Output: data on stdout, messages on stderr, each with colours only if the user and the stream allow them.

pub(crate) mod detail;
pub(crate) mod file;
pub(crate) mod line;
pub(crate) mod spinner;
pub(crate) mod status;
mod table;

use std::io::{self, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};
use serde::Serialize;
use tunneld_proto::codec;

use crate::cli::{Color, Global, Output};
use crate::exit::Exit;
use line::{Line, Style};
use spinner::Spinner;

/// Prints data and messages as the global options say.
#[derive(Debug, Clone)]
pub(crate) struct Ui {
    /// `--output json`: stdout is for programs.
    pub(crate) json: bool,
    /// `--quiet`: only errors and warnings.
    pub(crate) quiet: bool,
    /// Whether progress messages are printed too (`--verbose`).
    pub(crate) verbose: bool,
    out_color: bool,
    err_color: bool,
}

impl Ui {
    /// Decides the colours by `--color`, NO_COLOR, TERM and whether the streams are terminals.
    pub(crate) fn new(global: &Global) -> Self {
        let use_color = |auto: ColorChoice| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => auto != ColorChoice::Never,
        };
        Self {
            json: global.output == Output::Json,
            quiet: global.quiet > 0,
            verbose: global.verbose > 0,
            out_color: use_color(AutoStream::choice(&io::stdout())),
            err_color: use_color(AutoStream::choice(&io::stderr())),
        }
    }

    /// Returns the width of stdout in columns; `None` if it is not a terminal.
    pub(crate) fn width() -> Option<usize> {
        let stdout = io::stdout();
        stdout.is_terminal().then(|| size_of(&stdout).0)
    }

    /// Returns the height of stdout in lines; `None` if it is not a terminal.
    pub(crate) fn height() -> Option<usize> {
        let stdout = io::stdout();
        stdout.is_terminal().then(|| size_of(&stdout).1)
    }

    /// Makes a spinner on stderr; it stays off with `--quiet` and on a dumb terminal.
    pub(crate) fn spinner(&self) -> Spinner {
        let stderr = io::stderr();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let on = stderr.is_terminal() && !self.quiet && !dumb;
        Spinner::new(on.then(|| size_of(&stderr).0), self.err_color)
    }

    pub(crate) fn data(&self, lines: &[Line]) -> Result<(), Exit> {
        let mut out = stream(io::stdout(), self.out_color).lock();
        for line in lines {
            writeln!(out, "{}", line.paint(self.out_color))?;
        }
        Ok(out.flush()?)
    }

    /// Overwrites the screen with the lines, as far as it has room for them.
    pub(crate) fn redraw(&self, lines: &[Line]) -> Result<(), Exit> {
        let mut text = String::from("\x1b[H");
        let room = Self::screen_height().unwrap_or(usize::MAX);
        for line in lines.iter().take(room) {
            text.push_str(&line.paint(self.out_color));
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        // Not through the colour filter, which would drop the cursor movements.
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Returns how many lines [`Self::redraw`] can show; `None` if stdout is not a terminal.
    pub(crate) fn screen_height() -> Option<usize> {
        // The cursor stays on the last line.
        Self::height().map(|height| height.saturating_sub(1))
    }

    /// Prints `value` on stdout as one line of JSON.
    pub(crate) fn json(&self, value: &(impl Serialize + ?Sized)) -> Result<(), Exit> {
        let line = codec::to_line(value).map_err(io::Error::from)?;
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        Ok(out.flush()?)
    }

    /// Prints a message on stderr, unless `--quiet` is given.
    pub(crate) fn info(&self, line: impl Into<Line>) {
        if !self.quiet {
            self.warn(&line.into());
        }
    }

    /// Prints a message on stderr if `--verbose` is given.
    pub(crate) fn verbose(&self, line: impl Into<Line>) {
        if self.verbose {
            self.warn(&line.into());
        }
    }

    /// Prints a message on stderr even with `--quiet`.
    pub(crate) fn warn(&self, line: &Line) {
        // A closed stderr is ignored: no other place is left to report it.
        let _ = writeln!(
            stream(io::stderr(), self.err_color),
            "{}",
            line.paint(self.err_color)
        );
    }

    /// Prints the error, its causes and its hint on stderr.
    pub(crate) fn exit(&self, exit: &Exit) {
        let Some(message) = &exit.message else {
            return;
        };
        let mut texts = message.lines();
        self.warn(
            &Line::of(Style::Bad, "error")
                .and(": ")
                .and(texts.next().unwrap_or_default()),
        );
        for text in texts {
            self.warn(&Line::from("  ").and(text));
        }
        for text in exit.causes.iter().flat_map(|cause| cause.lines()) {
            self.warn(&Line::from("  ").and(text));
        }
        for (number, text) in exit.hint.iter().flat_map(|hint| hint.lines()).enumerate() {
            let mark = if number == 0 { "hint" } else { "    " };
            self.warn(
                &Line::of(Style::Good, mark)
                    .and(if number == 0 { ": " } else { "  " })
                    .and(text),
            );
        }
    }
}

fn stream<S: anstream::stream::RawStream>(raw: S, color: bool) -> AutoStream<S> {
    AutoStream::new(
        raw,
        if color {
            ColorChoice::Always
        } else {
            ColorChoice::Never
        },
    )
}

#[cfg(unix)]
fn size_of(stream: &impl std::os::fd::AsFd) -> (usize, usize) {
    or_default(terminal_size::terminal_size_of(stream))
}

#[cfg(windows)]
fn size_of(stream: &impl std::os::windows::io::AsHandle) -> (usize, usize) {
    or_default(terminal_size::terminal_size_of(stream))
}

/// Assumes 80 × 24 for a terminal that does not report its size.
fn or_default(size: Option<(terminal_size::Width, terminal_size::Height)>) -> (usize, usize) {
    match size {
        Some((width, height)) if width.0 > 0 && height.0 > 0 => (width.0.into(), height.0.into()),
        _ => (80, 24),
    }
}
