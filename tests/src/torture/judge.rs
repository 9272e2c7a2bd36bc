//! What a life proves: whether its failure is one that the kernel does not produce, whether a refusal to start is one
//! clear line, and which of its faults count.

use std::time::{Duration, SystemTime};

use super::excluded::{KNOWN_PANICS, KnownPanic};
use super::hit::Hit;

/// A connection notices a failed call of its own at once; the clocks of two processes may differ by less than this.
const BEFORE: Duration = Duration::from_millis(500);

/// What went wrong in a life.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// When it was noticed.
    pub(super) at: SystemTime,
    pub(super) kind: FaultKind,
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// Something did not go on: a step, a command, the process. A panic explains it if the panic came first.
    Stopped,
    /// Wrong or lost bytes, an unclear message, a panic.
    Wrong,
}

impl Fault {
    /// A fault that is noticed now.
    pub(super) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self {
            at: SystemTime::now(),
            kind,
            text: text.into(),
        }
    }
}

/// A stream through a remote forward that ended in order before all bytes were back.
#[derive(Debug, Clone)]
pub(super) struct ShortStream {
    pub(super) from: SystemTime,
    pub(super) to: SystemTime,
    pub(super) text: String,
}

/// What is known about a life at its end.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    /// Everything that the daemon printed.
    pub(super) log: &'a str,
    pub(super) hits: Vec<Hit>,
    pub(super) faults: Vec<Fault>,
    pub(super) short_streams: Vec<ShortStream>,
    /// The ports of the server of the remote forward and of its target.
    pub(super) remote_ports: [u16; 2],
    /// Whether the daemon ended with an error before the first connection.
    pub(super) refused: bool,
    /// Whether a changed file was read only after `tunnelctl reload`.
    pub(super) reloaded_by_command: bool,
    /// The configuration directory.
    pub(super) config_dir: &'a str,
}

/// How one life went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything went on.
    Right,
    /// Everything went on, but a changed file was read only after `tunnelctl reload`, because the failure hit a call of the
    /// watcher.
    ReloadedByCommand,
    /// The call was not made that often, so nothing failed.
    NotHit,
    /// The failure met a descriptor on which the call cannot fail in this way, and the library that made it panicked.
    Impossible,
    /// The dynamic loader could not load the program.
    NotLoaded,
    /// The daemon refused to start and said why in this line.
    Refused(String),
    /// What went wrong, in the order of the script: one line each.
    Wrong(Vec<String>),
}

impl Evidence<'_> {
    /// Judges the life.
    pub(super) fn verdict(mut self) -> Verdict {
        if self.refused && self.log.contains("error while loading shared libraries") {
            return Verdict::NotLoaded;
        }
        let known = self.judge_panics();
        let mut refusal = None;
        if self.refused && known.is_none() {
            match clear_line(self.log, &self.hits) {
                Ok(line) => refusal = Some(line.to_owned()),
                Err(why) => self.push(format!("refused to start, but {why}")),
            }
        }
        self.judge_short_streams();
        let watcher = |hit: &Hit| hit.is_of_the_watcher(self.config_dir);
        if self.reloaded_by_command && !self.hits.iter().any(watcher) {
            self.faults.push(Fault::new(
                FaultKind::Stopped,
                "a changed file was read only after `tunnelctl reload`",
            ));
        }
        // What stopped after a panic that no real failure causes is its consequence.
        let explained = |fault: &Fault| {
            fault.kind == FaultKind::Stopped && known.is_some_and(|panicked| fault.at >= panicked)
        };
        self.faults.retain(|fault| !explained(fault));
        match refusal {
            _ if !self.faults.is_empty() => {
                Verdict::Wrong(self.faults.into_iter().map(|fault| fault.text).collect())
            }
            Some(line) => Verdict::Refused(line),
            None if known.is_some() => Verdict::Impossible,
            None if self.hits.is_empty() => Verdict::NotHit,
            None if self.reloaded_by_command => Verdict::ReloadedByCommand,
            None => Verdict::Right,
        }
    }

    fn push(&mut self, text: String) {
        self.faults.push(Fault::new(FaultKind::Wrong, text));
    }

    /// Makes each panic a fault, except a known one that a hit explains. Returns when the first of those was hit.
    fn judge_panics(&mut self) -> Option<SystemTime> {
        let mut first = None;
        let printed = without_log_lines(self.log);
        for panic in Panic::all(&printed) {
            let hit = |known: &KnownPanic| {
                let mut hits = self.hits.iter();
                hits.find(|hit| hit.call() == known.call && hit.text.contains(known.descriptor))
            };
            let mut known = KNOWN_PANICS.iter().filter(|known| panic.is(known));
            match known.find_map(hit) {
                Some(hit) => first = Some(first.map_or(hit.at, |at: SystemTime| at.min(hit.at))),
                None => self.push(format!("PANIC {} in {}", panic.place, panic.function)),
            }
        }
        first
    }

    /// Makes each stream a fault that was lost while no call of its connection, or of its session, failed.
    fn judge_short_streams(&mut self) {
        for stream in std::mem::take(&mut self.short_streams) {
            let is_cause = |hit: &Hit| {
                let at = hit.at + BEFORE;
                at >= stream.from && hit.at <= stream.to && hit.concerns(&self.remote_ports)
            };
            if !self.hits.iter().any(is_cause) {
                self.push(format!("{}, and no call of it failed", stream.text));
            }
        }
    }
}

/// Returns `text` without log lines. The log has a thread of its own, so a line of it may be in the middle of another.
fn without_log_lines(text: &str) -> String {
    // `2026-12-01T05:17:00.027Z`
    let is_time =
        |bytes: &[u8]| matches!(bytes, [_, _, _, _, b'-', _, _, b'-', _, _, b'T', .., b'Z']);
    let mut rest = String::new();
    for line in text.split_inclusive('\n') {
        let log = line.as_bytes().windows(24).position(is_time);
        rest.push_str(log.and_then(|at| line.get(..at)).unwrap_or(line));
    }
    rest
}

/// A panic that the daemon printed.
#[derive(Debug, PartialEq, Eq)]
struct Panic<'a> {
    /// File, line and column.
    place: &'a str,
    /// The first function of the backtrace outside of Rust's own libraries; empty without a backtrace.
    function: &'a str,
}

impl<'a> Panic<'a> {
    fn all(log: &'a str) -> Vec<Self> {
        let mut panics = Vec::new();
        for part in log.split(" panicked at ").skip(1) {
            let place = part.lines().next().unwrap_or_default();
            let mut frames = part.lines().skip(1).filter_map(|line| {
                let (number, function) = line.trim_start().split_once(": ")?;
                number.parse::<u32>().ok().map(|_| function)
            });
            let of_rust = ["__rustc::", "core::", "std::", "<core::", "<std::", "rust_"];
            let function =
                frames.find(|function| !of_rust.iter().any(|start| function.starts_with(start)));
            panics.push(Self {
                place: place.trim_end_matches(':'),
                function: function.unwrap_or_default(),
            });
        }
        panics
    }

    /// Whether this is `known`: the same file of the same crate, and the same function.
    fn is(&self, known: &KnownPanic) -> bool {
        let (name, path) = known.file;
        let mut parts = self.place.rsplitn(3, ':').skip(2);
        let file = parts.next().unwrap_or_default();
        // `…/CRATE-VERSION/src/…`
        let folder = file
            .strip_suffix(path)
            .and_then(|start| start.strip_suffix('/'));
        let folder = folder.and_then(|folder| folder.rsplit('/').next());
        let version = folder
            .and_then(|folder| folder.strip_prefix(name))
            .and_then(|rest| rest.strip_prefix('-'));
        self.function == known.function
            && version
                .is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
    }
}

/// Failures that mean something that the message says in its own words: the call, the system's words, and the message's.
const OTHER_WORDS: &[(&str, &str, &str)] = &[
    (
        "flock",
        "Resource temporarily unavailable",
        "tunneld is already running",
    ),
    // The C library returns EAGAIN for each failure of the call (pthread_create(3)).
    (
        "clone3",
        "Cannot allocate memory",
        "Resource temporarily unavailable",
    ),
];

/// Returns the line in which the daemon says why it did not start.
///
/// # Errors
/// What is unclear: not exactly one line, a panic or its backtrace, no word on what was being done, or on the cause.
fn clear_line<'a>(log: &'a str, hits: &[Hit]) -> Result<&'a str, String> {
    let mut line = None;
    for text in log.lines().filter(|text| !text.trim().is_empty()) {
        let is_log = text.starts_with(|first: char| first.is_ascii_digit());
        if text.contains(" ERROR ") || text.contains("panicked at") {
            return Err(format!("it also printed `{text}`"));
        } else if text.starts_with("tunneld: ") {
            if line.replace(text).is_some() {
                return Err(format!("with a second line: `{text}`"));
            }
        } else if !is_log && (line.is_none() || !text.starts_with("  hint: ")) {
            return Err(format!("it also printed `{text}`"));
        }
    }
    let line = line.ok_or("without a word")?;
    let means_other = |(call, error, words): &(&str, &str, &str)| {
        let is_hit = |hit: &Hit| hit.call() == *call && hit.error == *error;
        line.contains(words) && hits.iter().any(is_hit)
    };
    if OTHER_WORDS.iter().any(means_other) {
        return Ok(line);
    }
    let cause = hits.iter().find_map(|hit| line.find(&hit.error));
    let cause = cause.ok_or_else(|| format!("not why: `{line}`"))?;
    let deed = line.get("tunneld: ".len()..cause).unwrap_or_default();
    if deed.split_whitespace().count() < 2 {
        return Err(format!("not what it was doing: `{line}`"));
    }
    // Rust's Debug output, not words.
    if line.contains(" { ") {
        return Err(format!("in the words of a program: `{line}`"));
    }
    Ok(line)
}

#[cfg(test)]
mod tests;
