//! A spinner: one line on stderr that is redrawn while the command waits.

use std::io::Write as _;

use super::line::{Line, Style};

const FRAMES: &[&str] = &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// A spinner that prints nothing if stderr is not a terminal.
#[derive(Debug)]
pub(crate) struct Spinner {
    on: bool,
    color: bool,
    width: usize,
    frame_number: usize,
    drawn: bool,
}

impl Spinner {
    /// Makes a spinner of at most `width` terminal columns; `None` if stderr is not a terminal.
    pub(crate) fn new(width: Option<usize>, color: bool) -> Self {
        Self {
            on: width.is_some(),
            color,
            width: width.unwrap_or(0),
            frame_number: 0,
            drawn: false,
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Draws the next frame with `line` beside it.
    pub(crate) fn draw(&mut self, line: Line) {
        if let Some(text) = self.next(line) {
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }

    fn next(&mut self, line: Line) -> Option<String> {
        if !self.on {
            return None;
        }
        let frame = FRAMES
            .get(self.frame_number % FRAMES.len())
            .copied()
            .unwrap_or("");
        self.frame_number += 1;
        self.drawn = true;
        // The last column stays free: some terminals wrap the line when it is written.
        let line = Line::of(Style::Warn, frame)
            .and(" ")
            .join(line)
            .cut(self.width.saturating_sub(1));
        Some(format!("\r{}\x1b[K", line.paint(self.color)))
    }

    /// Removes the line, so that other output can follow.
    pub(crate) fn clear(&mut self) {
        if self.drawn {
            self.drawn = false;
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_nothing_is_drawn() {
        let mut spinner = Spinner::new(None, true);
        assert_eq!(spinner.next("db: connecting".into()), None);
        assert!(!spinner.is_on());
    }

    #[test]
    fn each_frame_stays_within_the_line() {
        let mut spinner = Spinner::new(Some(10), false);
        assert_eq!(
            spinner.next("db: connecting".into()).as_deref(),
            Some("\r⠋ db: co…\x1b[K")
        );
        assert_eq!(spinner.next("db".into()).as_deref(), Some("\r⠙ db\x1b[K"));
        spinner.drawn = false;
    }
}
