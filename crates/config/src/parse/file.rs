//! One configuration file: read without trusting it, and parsed into its tables.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::diagnostic::{At, Diagnostic, Span};
use crate::env::Env;
use crate::layer::Layer;
use crate::model::DaemonConfig;
use crate::parse::destination::check_name;
use crate::parse::table::{Table, expected, integer};
use crate::parse::tree::{self, Entry, Value};
use crate::parse::tunnel::{self, Owner};
use crate::parse::values;

/// The largest file that is read.
pub const LARGEST: u64 = 1 << 20;
/// The most tunnels of one file.
pub const MOST_TUNNELS: usize = 1_024;

/// Why a file could not be read, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

fn unreadable<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable {
        message: message.into(),
        help: help.into(),
    })
}

/// Reads a file's text; `None` where it is not there (any more).
///
/// # Errors
/// No regular file, too large, writable by others, no UTF-8, a NUL in it, or not readable at all.
pub fn text(path: &Path, env: &Env) -> Result<Option<String>, Unreadable> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.is_symlink() => {
            return unreadable(
                "is a link to a file that is not there",
                "make the file, or remove the link",
            );
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return unreadable(
                format!("cannot be opened: {error}"),
                "make it readable for you, or remove it",
            );
        }
    };
    let facts = match file.metadata() {
        Ok(facts) => facts,
        Err(error) => return unreadable(format!("cannot be looked at: {error}"), "try again"),
    };
    if !facts.is_file() {
        return unreadable(
            "is no regular file",
            "configuration is read from regular files alone",
        );
    }
    if let Err(why) = trusted(&facts, env) {
        return unreadable(
            why,
            format!("chown it to you, and chmod go-w {}", path.display()),
        );
    }
    let mut bytes = Vec::new();
    if let Err(error) = file.take(LARGEST + 1).read_to_end(&mut bytes) {
        return unreadable(format!("cannot be read: {error}"), "try again");
    }
    if bytes.len() as u64 > LARGEST {
        return unreadable("is larger than 1 MiB", "split it into several files");
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = error
                .as_bytes()
                .iter()
                .take(valid)
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            return unreadable(format!("is no UTF-8: line {line}"), "save it as UTF-8");
        }
    };
    if let Some(at) = text.find('\0') {
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        return unreadable(
            format!("holds a NUL in line {line}"),
            "save it as plain text",
        );
    }
    Ok(Some(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    }))
}

#[cfg(unix)]
fn open(path: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    // Not blocking: a FIFO must not hold the daemon.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}
#[cfg(not(unix))]
fn open(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

/// Whether nobody but the user and root can have written it.
#[cfg(unix)]
fn trusted(facts: &std::fs::Metadata, env: &Env) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let sticky = facts.is_dir() && facts.mode() & 0o1000 != 0;
    if facts.uid() != env.uid && facts.uid() != 0 {
        return Err(format!("belongs to another user (uid {})", facts.uid()));
    }
    if facts.mode() & 0o022 != 0 && !sticky {
        return Err(format!(
            "can be written by others (mode {:04o}): whoever can write it can run commands as you",
            facts.mode() & 0o7777
        ));
    }
    Ok(())
}
#[cfg(not(unix))]
fn trusted(_facts: &std::fs::Metadata, _env: &Env) -> Result<(), String> {
    Ok(())
}

/// Proves that nobody else can have put files into a folder: it and those above it, up to the home.
///
/// # Errors
/// Which folder is not trusted, and why.
pub fn trusted_folder(dir: &Path, env: &Env) -> Result<(), Unreadable> {
    let Ok(real) = dir.canonicalize() else {
        return Ok(());
    };
    let home = env.home.canonicalize().unwrap_or_else(|_| env.home.clone());
    for folder in real.ancestors() {
        let inside = folder.starts_with(&home);
        if folder != real && !inside {
            break;
        }
        let Ok(facts) = folder.metadata() else {
            continue;
        };
        if let Err(why) = trusted(&facts, env) {
            return unreadable(
                format!("the folder {} {why}", folder.display()),
                format!("chown it to you, and chmod go-w {}", folder.display()),
            );
        }
    }
    Ok(())
}

/// One `[tunnel.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Where the name stands.
    pub at: Option<Span>,
    /// What its table says.
    pub spec: Layer,
}

/// A file's tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// `[defaults]`.
    pub defaults: Layer,
    /// `[daemon]`.
    pub daemon: Option<At<DaemonConfig>>,
    /// Every `[tunnel.NAME]`, in the order of the file.
    pub tunnels: Vec<Named>,
}

/// Parses a file's text, and tells of all that is wrong with it.
pub fn parse(file: usize, text: &str) -> (Parsed, Vec<Diagnostic>) {
    let (root, mut problems) = tree::from_toml(file, text);
    let mut parsed = Parsed::default();
    let Value::Table(entries) = &root.value else {
        return (parsed, problems);
    };
    let mut found = Vec::new();
    let mut table = Table::new(
        "the file: there are [tunnel.NAME], [defaults] and [daemon]",
        entries,
        &mut found,
    );
    let defaults = section(&mut table, "defaults");
    let daemon = section(&mut table, "daemon");
    let tunnels = section(&mut table, "tunnel");
    table.finish();
    if let Some(entry) = defaults {
        parsed.defaults = tunnel::spec(Owner::Defaults, "[defaults]", tables(entry), &mut found);
    }
    let defaults_are_good = found.is_empty();
    if let Some(entry) = daemon {
        let config = self::daemon(tables(entry), &mut found);
        parsed.daemon = Some(At {
            value: config,
            at: entry.at,
        });
    }
    for entry in tunnels.map(tables).unwrap_or_default() {
        if parsed.tunnels.len() == MOST_TUNNELS {
            let message = format!("more than {MOST_TUNNELS} tunnels in one file");
            found.push(Diagnostic::new(entry.at, message));
            break;
        }
        // What has a fault is told, and is good for nothing else.
        let before = found.len();
        let tunnel = tunnel(entry, &mut found);
        parsed
            .tunnels
            .extend(tunnel.filter(|_| found.len() == before && defaults_are_good));
    }
    problems.append(&mut found);
    problems.sort_by_key(|problem| problem.at);
    problems.dedup();
    (parsed, problems)
}

/// A table under the root, told where it is no table.
fn section<'a>(table: &mut Table<'a, '_>, key: &'static str) -> Option<&'a Entry> {
    let entry = table.entry(key)?;
    if matches!(entry.node.value, Value::Table(_)) {
        return Some(entry);
    }
    let what = if key == "tunnel" {
        "[tunnel.NAME]"
    } else {
        "a table"
    };
    table.refuse(key, entry.at, expected(what, &entry.node));
    None
}

fn tables(entry: &Entry) -> &[Entry] {
    match &entry.node.value {
        Value::Table(entries) => entries,
        _ => &[],
    }
}

fn tunnel(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Option<Named> {
    if let Err(error) = check_name(&entry.key) {
        problems.push(Diagnostic::new(entry.at, error));
    }
    let Value::Table(entries) = &entry.node.value else {
        let kind = entry.node.value.kind();
        let message = format!("expected a table [tunnel.{}], found {kind}", entry.key);
        problems.push(
            Diagnostic::new(entry.at, message).help("a tunnel's keys stand under [tunnel.NAME]"),
        );
        return None;
    };
    let title = format!("[tunnel.{}]", entry.key);
    Some(Named {
        name: entry.key.clone(),
        at: entry.at,
        spec: tunnel::spec(Owner::Tunnel, &title, entries, problems),
    })
}

fn daemon(entries: &[Entry], problems: &mut Vec<Diagnostic>) -> DaemonConfig {
    let mut table = Table::new("[daemon]", entries, problems);
    let mut config = DaemonConfig::default();
    let log = table.text("log", |text| {
        values::log_filter(text).map(|()| text.to_owned())
    });
    config.log = log.map(|log| log.value);
    let connects = table.proved("max_concurrent_connects", |node| {
        integer(node, &tunnel::CONNECTS)
    });
    if let Some(connects) = connects.and_then(|at| usize::try_from(at.value).ok()) {
        config.max_concurrent_connects = connects;
    }
    for key in ["http_listen", "metrics"] {
        table.unsupported(key);
    }
    table.finish();
    config
}

/// Reads the keys of `[tunnel.NAME]` from JSON.
pub fn from_json(name: &str, value: &serde_json::Value) -> (Layer, Vec<Diagnostic>) {
    let mut problems = Vec::new();
    if let Err(error) = check_name(name) {
        problems.push(Diagnostic::new(None, error));
    }
    let node = tree::from_json(value);
    let Value::Table(entries) = &node.value else {
        let kind = node.value.kind();
        problems.push(Diagnostic::new(
            None,
            format!("expected the keys of [tunnel.NAME], found {kind}"),
        ));
        return (Layer::default(), problems);
    };
    let title = format!("[tunnel.{name}]");
    let spec = tunnel::spec(Owner::Tunnel, &title, entries, &mut problems);
    (spec, problems)
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
