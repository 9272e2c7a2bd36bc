//! What is printed: data on stdout, talk on stderr, each in colour only where that is wanted.

pub(crate) mod detail;
pub(crate) mod line;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod spinner;
pub(crate) mod status;
mod table;

use std::io::{self, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};
use serde::Serialize;
use tunneld_proto::codec;

use crate::cli::{Color, Global, Output};
use crate::exit::Exit;
use line::{Ink, Line};
use spinner::Spinner;

/// Where to print, and how.
#[derive(Debug, Clone)]
pub(crate) struct Ui {
    /// Whether programs read stdout.
    pub(crate) json: bool,
    /// Whether nothing but errors is said.
    pub(crate) quiet: bool,
    /// Whether more is said.
    pub(crate) verbose: bool,
    out_color: bool,
    err_color: bool,
}

impl Ui {
    /// As the command line and the environment say.
    pub(crate) fn new(global: &Global) -> Self {
        let wanted = |auto: ColorChoice| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => auto != ColorChoice::Never,
        };
        Self {
            json: global.output == Output::Json,
            quiet: global.quiet > 0,
            verbose: global.verbose > 0,
            out_color: wanted(AutoStream::choice(&io::stdout())),
            err_color: wanted(AutoStream::choice(&io::stderr())),
        }
    }

    /// stdout's width; none where it is no terminal.
    pub(crate) fn width() -> Option<usize> {
        let stdout = io::stdout();
        stdout.is_terminal().then(|| size_of(&stdout).0)
    }

    /// stdout's height; none where it is no terminal.
    pub(crate) fn height() -> Option<usize> {
        let stdout = io::stdout();
        stdout.is_terminal().then(|| size_of(&stdout).1)
    }

    /// A spinner on stderr.
    pub(crate) fn spinner(&self) -> Spinner {
        let stderr = io::stderr();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let on = stderr.is_terminal() && !self.quiet && !dumb;
        Spinner::new(on.then(|| size_of(&stderr).0), self.err_color)
    }

    /// Prints lines of data.
    pub(crate) fn data(&self, lines: &[Line]) -> Result<(), Exit> {
        let mut out = stream(io::stdout(), self.out_color).lock();
        for line in lines {
            writeln!(out, "{}", line.paint(self.out_color))?;
        }
        Ok(out.flush()?)
    }

    /// Clears the terminal and prints as many lines as it holds.
    pub(crate) fn redraw(&self, lines: &[Line]) -> Result<(), Exit> {
        let mut text = String::from("\x1b[H");
        let room = Self::height().map_or(usize::MAX, |height| height.saturating_sub(1));
        for line in lines.iter().take(room) {
            text.push_str(&line.paint(self.out_color));
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        // Past the colour filter: it would drop the cursor's movements.
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Prints one line of JSON.
    pub(crate) fn json(&self, value: &(impl Serialize + ?Sized)) -> Result<(), Exit> {
        let line = codec::to_line(value).map_err(io::Error::from)?;
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        Ok(out.flush()?)
    }

    /// Says something to a person, unless told to be quiet.
    pub(crate) fn say(&self, line: impl Into<Line>) {
        if !self.quiet {
            self.complain(&line.into());
        }
    }

    /// Says something only where more is wanted.
    pub(crate) fn mention(&self, line: impl Into<Line>) {
        if self.verbose {
            self.complain(&line.into());
        }
    }

    /// Says something that matters even when quiet.
    pub(crate) fn complain(&self, line: &Line) {
        // Nobody is left to be told that stderr is closed.
        let _ = writeln!(
            stream(io::stderr(), self.err_color),
            "{}",
            line.paint(self.err_color)
        );
    }

    /// Says why the command ends.
    pub(crate) fn exit(&self, exit: &Exit) {
        let Some(message) = &exit.message else {
            return;
        };
        let mut texts = message.lines();
        self.complain(
            &Line::of(Ink::Bad, "error")
                .and(": ")
                .and(texts.next().unwrap_or_default()),
        );
        for text in texts {
            self.complain(&Line::from("  ").and(text));
        }
        for text in exit.causes.iter().flat_map(|cause| cause.lines()) {
            self.complain(&Line::from("  ").and(text));
        }
        for (number, text) in exit.hint.iter().flat_map(|hint| hint.lines()).enumerate() {
            let mark = if number == 0 { "hint" } else { "    " };
            self.complain(
                &Line::of(Ink::Good, mark)
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
    sane(terminal_size::terminal_size_of(stream))
}

#[cfg(windows)]
fn size_of(stream: &impl std::os::windows::io::AsHandle) -> (usize, usize) {
    sane(terminal_size::terminal_size_of(stream))
}

/// A terminal that does not tell is taken for the usual one.
fn sane(size: Option<(terminal_size::Width, terminal_size::Height)>) -> (usize, usize) {
    match size {
        Some((width, height)) if width.0 > 0 && height.0 > 0 => (width.0.into(), height.0.into()),
        _ => (80, 24),
    }
}
