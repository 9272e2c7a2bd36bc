//! One configuration file: reads its text without trusting the file, and parses the text into tables.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::path::Path;

use crate::addr::{BindAddr, ListenAddr};
use crate::diagnostic::{Diagnostic, Span, Spanned};
use crate::env::Env;
use crate::keys;
use crate::layer::Layer;
use crate::log_filter;
use crate::model::{DaemonConfig, Forward};
use crate::parse::destination::check_name;
use crate::parse::forward::{self, ForwardGrammar, MAX_SOCKET_PATH};
use crate::parse::syntax;
use crate::parse::table::{Table, ValueError, expected, integer, string};
use crate::parse::tree::{self, TableEntry, Value};
use crate::parse::tunnel::{self, TableKind};

pub use tunneld_toml::name::MAX_FILE_SIZE;
/// The most tunnels of one file.
pub const MAX_TUNNELS: usize = 1_024;

/// The help for what the user cannot mend and tunneld tries again.
const READ_AGAIN: &str = "tunneld reads it again within 5 seconds";

/// Why a file or folder cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// What is wrong, to follow the path in a message.
    pub message: String,
    /// What the user can do about it.
    pub help: String,
    /// Whether another attempt can succeed while the file stays as it is.
    pub cause: UnreadableCause,
}

/// Whether a file is wrong, or could only not be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadableCause {
    /// Its type, owner, mode or text is wrong: it must be changed.
    Content,
    /// Reading it failed: an I/O error, missing rights, too many open files, a home that is not mounted yet.
    Moment,
}

fn unreadable<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable {
        message: message.into(),
        help: help.into(),
        cause: UnreadableCause::Content,
    })
}

fn unreadable_now<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable {
        message: message.into(),
        help: help.into(),
        cause: UnreadableCause::Moment,
    })
}

/// Reads a file's text, without a byte order mark; `None` if the file does not exist (any more).
///
/// # Errors
/// The file is not a regular file, too large, writable by others, not UTF-8, contains a NUL, or cannot be read.
pub fn read_text(path: &Path, env: &Env) -> Result<Option<String>, Unreadable> {
    // Opened before its owner and mode are read, and these from the open file: it cannot be exchanged in between.
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.is_symlink() => {
            return unreadable_now(
                "is a symbolic link to a file that does not exist",
                "create the file, or remove the link",
            );
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let help = match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    format!("run: chmod u+r {}; or remove the file", path.display())
                }
                _ => READ_AGAIN.to_owned(),
            };
            return unreadable_now(format!("cannot be opened: {error}"), help);
        }
    };
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            return unreadable_now(
                format!("its owner and mode cannot be read: {error}"),
                READ_AGAIN,
            );
        }
    };
    if !metadata.is_file() {
        return unreadable(
            "is not a regular file",
            "configuration is read from regular files only: remove it or rename it",
        );
    }
    check_owner_and_mode(path, &metadata, env)?;
    let mut bytes = Vec::new();
    // One byte more than allowed, to notice a larger file without reading it all: it may grow while it is read.
    if let Err(error) = file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes) {
        return unreadable_now(format!("cannot be read: {error}"), READ_AGAIN);
    }
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return unreadable("is larger than 1 MiB", "split it into several files");
    }
    decode(bytes).map(Some)
}

fn decode(bytes: Vec<u8>) -> Result<String, Unreadable> {
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let (before, rest) = error.as_bytes().split_at(valid);
            let before = String::from_utf8_lossy(before);
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            let byte = rest.first().copied().unwrap_or_default();
            return unreadable(
                format!("is not UTF-8: line {line}, column {column}, byte 0x{byte:02X}"),
                "save it as UTF-8",
            );
        }
    };
    if let Some(at) = text.find('\0') {
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        return unreadable(
            format!("contains a NUL byte in line {line}"),
            "save it as plain text",
        );
    }
    // Editors on Windows write a byte order mark.
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    })
}

#[cfg(unix)]
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    // NONBLOCK: opening a FIFO would wait for a writer, for ever.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}
#[cfg(not(unix))]
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

/// Checks that only the user and root can have written a file or folder: what a configuration says is run as the user.
#[cfg(unix)]
fn check_owner_and_mode(path: &Path, metadata: &Metadata, env: &Env) -> Result<(), Unreadable> {
    use std::os::unix::fs::MetadataExt as _;
    if metadata.uid() != env.uid && metadata.uid() != 0 {
        return unreadable(
            format!("belongs to another user (uid {})", metadata.uid()),
            format!("run as root: chown {} {}", env.user, path.display()),
        );
    }
    // In a sticky folder, such as /tmp, others can create files but cannot replace ours.
    let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
    let mut writers = metadata.mode() & 0o022;
    if writers & 0o020 != 0 && is_private_group(metadata.uid(), metadata.gid()) {
        writers &= !0o020;
    }
    if writers == 0 || sticky || is_read_only(path) {
        return Ok(());
    }
    let who = match writers {
        0o020 => "g",
        0o002 => "o",
        _ => "go",
    };
    unreadable(
        format!(
            "is writable by others (mode {:04o}), who could run commands as you",
            metadata.mode() & 0o7777
        ),
        format!("run: chmod {who}-w {}", path.display()),
    )
}

/// Whether a group is the user's own, which some systems (umask 0002) make for each user: it has the user's name, is the
/// user's primary group, and has no other member.
#[cfg(unix)]
fn is_private_group(uid: u32, gid: u32) -> bool {
    use uzers::os::unix::GroupExt as _;
    let (Some(user), Some(group)) = (uzers::get_user_by_uid(uid), uzers::get_group_by_gid(gid))
    else {
        return false;
    };
    user.primary_group_id() == gid
        && user.name() == group.name()
        && group.members().iter().all(|member| member == user.name())
}

/// Whether the mount is read-only (a ConfigMap): nobody can write there, whatever the mode is.
#[cfg(unix)]
fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path)
        .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}
#[cfg(not(unix))]
fn check_owner_and_mode(_path: &Path, _metadata: &Metadata, _env: &Env) -> Result<(), Unreadable> {
    Ok(())
}

/// Checks that only the user and root can have put files into a folder: checks it and its parents up to the home.
///
/// # Errors
/// The first folder that others can write, and why.
pub fn check_folder(dir: &Path, env: &Env) -> Result<(), Unreadable> {
    let Ok(real) = dir.canonicalize() else {
        // A folder that does not exist is reported where it is listed.
        return Ok(());
    };
    let home = env.home.canonicalize().unwrap_or_else(|_| env.home.clone());
    for folder in real.ancestors() {
        let inside_home = folder.starts_with(&home);
        // Above the home (or a directory outside it, such as /etc/tunneld) the system is trusted.
        if folder != real && !inside_home {
            break;
        }
        let Ok(metadata) = folder.metadata() else {
            continue;
        };
        if let Err(error) = check_owner_and_mode(folder, &metadata, env) {
            // Not noticed by the watcher, which watches the folder's content: it is to be looked at again.
            return unreadable_now(
                format!("the folder {} {}", folder.display(), error.message),
                error.help,
            );
        }
    }
    Ok(())
}

/// One `[tunnel.NAME]`, parsed but not resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedLayer {
    /// The tunnel's name, checked: 1 to 64 letters, digits, dots, hyphens and underscores.
    pub name: String,
    /// Where the name is written; `None` if the tunnel came as JSON.
    pub span: Option<Span>,
    /// The keys of its table.
    pub layer: Layer,
}

/// The tables of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParsedFile {
    /// `[defaults]`; empty if the file has none.
    pub defaults: Layer,
    /// Whether the text has `[defaults]`, or may have it: its syntax or the name of a table is wrong.
    pub may_have_defaults: bool,
    /// `[daemon]`; `None` if the file has none.
    pub daemon: Option<Spanned<DaemonConfig>>,
    /// Every `[tunnel.NAME]` without an error, in the order of the file.
    pub tunnels: Vec<NamedLayer>,
    /// The names of the tunnels with an error in their own table.
    pub broken: Vec<String>,
    /// Whether the file has errors, all of them in the tables of these tunnels: the others are not affected.
    pub only_tunnels_are_broken: bool,
}

/// Parses a file's text and returns every error in it. Spans carry the number `file`.
pub fn parse(file: usize, text: &str) -> (ParsedFile, Vec<Diagnostic>) {
    let (root, errors) = tree::from_toml(file, text);
    let (mut diagnostics, readable) = syntax::reduce(file, text, &root, errors);
    let mut parsed = ParsedFile::default();
    let Value::Table(entries) = &root.value else {
        parsed.may_have_defaults = true;
        return (parsed, diagnostics);
    };
    let mut found = Vec::new();
    let mut is_good = diagnostics.is_empty();
    let mut table = Table::new(
        "the file: there are [tunnel.NAME], [defaults] and [daemon]",
        ["defaults", "daemon", "tunnel"],
        entries,
        &mut found,
    );
    let defaults = section(&mut table, "defaults");
    let daemon = section(&mut table, "daemon");
    let tunnels = section(&mut table, "tunnel");
    table.finish();
    parsed.may_have_defaults = defaults.is_some() || !found.is_empty() || !diagnostics.is_empty();
    if let Some(entry) = defaults {
        parsed.defaults = tunnel::layer(
            TableKind::Defaults,
            "[defaults]",
            entries_of(entry),
            &mut found,
        );
    }
    let defaults_are_good = found.is_empty();
    is_good &= found.is_empty();
    if let Some(entry) = daemon {
        let config = self::daemon(entries_of(entry), &mut found);
        parsed.daemon = Some(Spanned {
            value: config,
            span: entry.span,
        });
    }
    is_good &= found.is_empty();
    for entry in tunnels.map(entries_of).unwrap_or_default() {
        if parsed.tunnels.len() == MAX_TUNNELS {
            let message = format!("more than {MAX_TUNNELS} tunnels in one file");
            found.push(Diagnostic::new(entry.span, message));
            is_good = false;
            break;
        }
        // A tunnel with an error, or below defaults with one, is left out: it would be resolved with values missing.
        let before = found.len();
        let tunnel = tunnel(entry, &mut found);
        if found.len() > before {
            parsed.broken.push(entry.key.clone());
        } else if defaults_are_good {
            parsed.tunnels.extend(tunnel);
        }
    }
    parsed.only_tunnels_are_broken = is_good && !parsed.broken.is_empty();
    if !readable {
        // What follows a syntax error is misread: its errors are not the user's.
        let end = diagnostics.first().and_then(|error| error.span);
        found.retain(|diagnostic| diagnostic.span < end);
        parsed.tunnels.clear();
    }
    diagnostics.append(&mut found);
    diagnostics.sort_by_key(|diagnostic| diagnostic.span);
    diagnostics.dedup();
    (parsed, diagnostics)
}

/// Takes one of the root's tables; reports it if it is not a table.
fn section<'a>(table: &mut Table<'a, '_>, key: &'static str) -> Option<&'a TableEntry> {
    let entry = table.entry(key)?;
    if matches!(entry.node.value, Value::Table(_)) {
        return Some(entry);
    }
    let what = if key == "tunnel" {
        "[tunnel.NAME]"
    } else {
        "a table"
    };
    table.report_value(key, entry.span, expected(what, &entry.node));
    None
}

fn entries_of(entry: &TableEntry) -> &[TableEntry] {
    match &entry.node.value {
        Value::Table(entries) => entries,
        _ => &[],
    }
}

fn tunnel(entry: &TableEntry, diagnostics: &mut Vec<Diagnostic>) -> Option<NamedLayer> {
    if let Err(error) = check_name(&entry.key) {
        diagnostics.push(Diagnostic::new(entry.span, error));
    }
    let Value::Table(entries) = &entry.node.value else {
        let kind = entry.node.value.kind();
        let message = format!("expected a table [tunnel.{}], found {kind}", entry.key);
        diagnostics.push(
            Diagnostic::new(entry.span, message).help("put the tunnel's keys under [tunnel.NAME]"),
        );
        return None;
    };
    let title = format!("[tunnel.{}]", entry.key);
    Some(NamedLayer {
        name: entry.key.clone(),
        span: entry.span,
        layer: tunnel::layer(TableKind::Tunnel, &title, entries, diagnostics),
    })
}

/// Parses `http_listen`: `[bind:]port`, or the path of a Unix socket.
fn http_listen(text: &str) -> Result<ListenAddr, ValueError> {
    if text.starts_with('/') {
        return match text.len() {
            ..=MAX_SOCKET_PATH => Ok(ListenAddr::Unix(text.into())),
            length => Err(ValueError::from(format!(
                "has {length} bytes; the path of a socket may have {MAX_SOCKET_PATH}"
            ))),
        };
    }
    let forward = forward::parse(ForwardGrammar::Dynamic, text)
        .map_err(|error| ValueError::from(error.to_string()))?;
    match forward {
        // `*` and an empty address would expose names and states of tunnels by accident.
        Forward::Dynamic {
            listen: ListenAddr::Tcp {
                bind: BindAddr::Any, ..
            },
        } => Err(ValueError::from(
            "needs an address of its own, such as 10.1.2.3:9145, to be reachable from other machines".to_owned(),
        )),
        Forward::Dynamic { listen } => Ok(listen),
        Forward::Local { .. } | Forward::Remote { .. } => {
            Err(ValueError::from("is not an address".to_owned()))
        }
    }
}

fn daemon(entries: &[TableEntry], diagnostics: &mut Vec<Diagnostic>) -> DaemonConfig {
    let known = keys::daemon_keys().map(|key| key.name);
    let mut table = Table::new("[daemon]", known, entries, diagnostics);
    let mut config = DaemonConfig::default();
    let log = table.text("log", |text| {
        log_filter::parse(text).map(|_| text.to_owned())
    });
    config.log = log.map(|log| log.value);
    let connects = table.value("max_concurrent_connects", |node| {
        integer(node, &tunnel::CONCURRENT_CONNECTS)
    });
    if let Some(connects) = connects.and_then(|connects| usize::try_from(connects.value).ok()) {
        config.max_concurrent_connects = connects;
    }
    config.http_listen = table
        .value("http_listen", |node| match &node.value {
            Value::Integer(_) => Ok(ListenAddr::Tcp {
                bind: BindAddr::Loopback,
                port: u16::try_from(integer(node, &(1..=65_535))?).unwrap_or_default(),
            }),
            _ => http_listen(string(node)?),
        })
        .map(|listen| listen.value);
    config.metrics = table
        .boolean("metrics")
        .is_some_and(|metrics| metrics.value);
    table.finish();
    config
}

/// Reads the keys of `[tunnel.NAME]` from JSON, for a tunnel of the command line.
pub fn from_json(name: &str, keys: &serde_json::Value) -> (Layer, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    if let Err(error) = check_name(name) {
        diagnostics.push(Diagnostic::new(None, error));
    }
    let node = tree::from_json(keys);
    let Value::Table(entries) = &node.value else {
        let kind = node.value.kind();
        diagnostics.push(Diagnostic::new(
            None,
            format!("expected the keys of [tunnel.NAME], found {kind}"),
        ));
        return (Layer::default(), diagnostics);
    };
    let title = format!("[tunnel.{name}]");
    let layer = tunnel::layer(TableKind::Tunnel, &title, entries, &mut diagnostics);
    (layer, diagnostics)
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
