//! One line on a terminal's stderr that shows that something is being waited for.

use std::io::Write as _;

use super::line::{Ink, Line};

const FRAMES: &[&str] = &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// The spinner; silent where stderr is no terminal.
#[derive(Debug)]
pub(crate) struct Spinner {
    on: bool,
    color: bool,
    width: usize,
    turn: usize,
    drawn: bool,
}

impl Spinner {
    /// A spinner in `width` columns; none for no terminal.
    pub(crate) fn new(width: Option<usize>, color: bool) -> Self {
        Self {
            on: width.is_some(),
            color,
            width: width.unwrap_or(0),
            turn: 0,
            drawn: false,
        }
    }

    /// Whether it shows at all.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Shows `line` and turns.
    pub(crate) fn draw(&mut self, line: Line) {
        if let Some(text) = self.next(line) {
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }

    fn next(&mut self, line: Line) -> Option<String> {
        if !self.on {
            return None;
        }
        let frame = FRAMES.get(self.turn % FRAMES.len()).copied().unwrap_or("");
        self.turn += 1;
        self.drawn = true;
        // The last column stays free: some terminals wrap when it is written.
        let line = Line::of(Ink::Warn, frame)
            .and(" ")
            .join(line)
            .cut(self.width.saturating_sub(1));
        Some(format!("\r{}\x1b[K", line.paint(self.color)))
    }

    /// Takes the line away.
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
    fn without_a_terminal_it_is_silent() {
        let mut spinner = Spinner::new(None, true);
        assert_eq!(spinner.next("db: connecting".into()), None);
        assert!(!spinner.is_on());
    }

    #[test]
    fn it_turns_and_stays_within_its_line() {
        let mut spinner = Spinner::new(Some(10), false);
        assert_eq!(
            spinner.next("db: connecting".into()).as_deref(),
            Some("\r⠋ db: co…\x1b[K")
        );
        assert_eq!(spinner.next("db".into()).as_deref(), Some("\r⠙ db\x1b[K"));
        spinner.drawn = false;
    }
}
