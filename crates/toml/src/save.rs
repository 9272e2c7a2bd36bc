//! Writes a tunnel into the configuration: into the file that defines it, whose comments stay, or into NAME.toml.

mod edit;

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml_edit::{DocumentMut, Item};
use tunneld_platform::fs;

use edit::edit;
pub use edit::value;

use crate::name::{MAX_FILE_SIZE, check_name, is_config};

/// A file that was written, and its content before.
#[derive(Debug)]
pub struct Saved {
    /// The path of the file.
    pub path: PathBuf,
    // `None` if the file did not exist.
    before: Option<String>,
}

impl Saved {
    /// Restores the file as it was before, or removes it. Blocks.
    ///
    /// # Errors
    /// The file cannot be written or removed.
    pub fn undo(self) -> std::io::Result<()> {
        match self.before {
            Some(text) => fs::replace(&self.path, text.as_bytes()),
            None => std::fs::remove_file(&self.path),
        }
    }
}

/// Keys of which a tunnel has several values: saving adds to them and removes none.
pub const ADDED_KEYS: [&str; 5] = [
    "local_forward",
    "remote_forward",
    "dynamic_forward",
    "identity_file",
    "certificate_file",
];

/// Why a tunnel was not saved; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct SaveError {
    /// The file or the folder that it is about.
    pub path: PathBuf,
    /// What is wrong with it.
    pub message: String,
    /// What the user can do about it.
    pub help: String,
}

impl SaveError {
    fn new(path: &Path, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            message: message.into(),
            help: help.into(),
        }
    }
}

const FIX_FIRST: &str = "fix the file first; `tunnelctl check` shows where";

/// Saves the keys of `[tunnel.NAME]`, given as a JSON object. Keys that only the file has stay as they are, and values are
/// added to those of [`ADDED_KEYS`]. Blocks.
///
/// # Errors
/// The folder or the file cannot be read or written, or is not TOML, or a new file of the name would not be read; then
/// nothing is changed.
pub fn save(dir: &Path, name: &str, keys: &Json) -> Result<Saved, SaveError> {
    let Json::Object(keys) = keys else {
        return Err(SaveError::new(
            dir,
            "the tunnel's keys are missing",
            "this is a bug in tunneld: please report it",
        ));
    };
    let mut target = Target::find(dir, name)?;
    edit(&mut target.document, name, keys, &ADDED_KEYS)
        .map_err(|error| SaveError::new(&target.path, error, FIX_FIRST))?;
    let text = target.document.to_string();
    target.write(&text)
}

/// Saves a tunnel with its comments. `block` is the text of `[tunnel.NAME]` with these keys, and becomes a new file or
/// the end of a file. If a file has the tunnel already, only the keys are set in it, values are added to the keys `added`,
/// and the block's lines of comments are written above its header. Blocks.
///
/// # Errors
/// As [`save`].
pub fn save_block(
    dir: &Path,
    name: &str,
    keys: &serde_json::Map<String, Json>,
    added: &[&str],
    block: &str,
) -> Result<Saved, SaveError> {
    let mut target = Target::find(dir, name)?;
    let fault = |path: &Path, error: String| SaveError::new(path, error, FIX_FIRST);
    let text = if target.defines(name) {
        edit(&mut target.document, name, keys, added)
            .map_err(|error| fault(&target.path, error))?;
        comment(&mut target.document, name, block);
        target.document.to_string()
    } else {
        let before = target.before.as_deref().unwrap_or_default();
        let text = appended(before, block);
        // A file that has `tunnel = { … }` accepts no further table of that name.
        if let Err(error) = text.parse::<DocumentMut>() {
            let message = format!("cannot hold the tunnel: {}", error.message());
            return Err(fault(&target.path, message));
        }
        text
    };
    target.write(&text)
}

/// Returns `text` with `block` behind it, after an empty line.
fn appended(text: &str, block: &str) -> String {
    let mut text = text.to_owned();
    if !text.is_empty() {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push('\n');
    }
    text.push_str(block);
    text
}

/// Writes the lines of comments in `block` above the header of the tunnel, without those that are in the file already and
/// those of a key (`# host = …`) that the tunnel has. A tunnel without a header (`tunnel.db.host = …`) gets none.
fn comment(document: &mut DocumentMut, name: &str, block: &str) {
    let text = document.to_string();
    let tunnels = document.get_mut("tunnel").and_then(Item::as_table_like_mut);
    let Some(table) = tunnels
        .and_then(|tunnels| tunnels.get_mut(name))
        .and_then(Item::as_table_mut)
        .filter(|table| !table.is_dotted())
    else {
        return;
    };
    let has_key = |line: &str| {
        let key = line.trim_start_matches(['#', ' ']).split_once(" = ");
        key.is_some_and(|(key, _)| table.contains_key(key))
    };
    let known = |line: &str| text.lines().any(|known| known.trim() == line);
    let lines = block.lines().map(str::trim);
    let lines = lines.filter(|line| line.starts_with('#') && !known(line) && !has_key(line));
    let added: String = lines.map(|line| format!("{line}\n")).collect();
    let before = table.decor().prefix().and_then(|prefix| prefix.as_str());
    let before = before.unwrap_or_default().to_owned();
    table.decor_mut().set_prefix(before + &added);
}

/// The file that a tunnel is saved in.
struct Target {
    path: PathBuf,
    // `None` if the file does not exist.
    before: Option<String>,
    document: DocumentMut,
}

impl Target {
    /// Finds the file that defines the tunnel, else NAME.toml, and reads it.
    fn find(dir: &Path, name: &str) -> Result<Self, SaveError> {
        check_name(name).map_err(|error| SaveError::new(dir, error, "choose another name"))?;
        fs::create_private_dir(dir).map_err(|error| {
            SaveError::new(
                dir,
                format!("cannot be created: {error}"),
                "create the folder, or choose another one with --config-dir",
            )
        })?;
        // The text, not the loader's last good state: comments and order must stay.
        let path = match defining_file(dir, name) {
            Some(path) => path,
            None => new_file(dir, name)
                .map_err(|error| SaveError::new(dir, error, "choose another name: --name"))?,
        };
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                let help = format!("run: chmod u+r {}", path.display());
                return Err(SaveError::new(
                    &path,
                    format!("cannot be read: {error}"),
                    help,
                ));
            }
        };
        let text = before.as_deref().unwrap_or_default();
        let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
            let message = format!("is not valid TOML: {}", error.message());
            SaveError::new(&path, message, FIX_FIRST)
        })?;
        Ok(Self {
            path,
            before,
            document,
        })
    }

    fn defines(&self, name: &str) -> bool {
        let tunnels = self.document.get("tunnel").and_then(Item::as_table_like);
        tunnels.is_some_and(|tunnels| tunnels.contains_key(name))
    }

    fn write(self, text: &str) -> Result<Saved, SaveError> {
        fs::replace(&self.path, text.as_bytes()).map_err(|error| {
            SaveError::new(
                &self.path,
                format!("cannot be written: {error}"),
                "check the mode of the folder and the free space of the disk",
            )
        })?;
        Ok(Saved {
            path: self.path,
            before: self.before,
        })
    }
}

/// Returns the path of the file for a new tunnel.
///
/// # Errors
/// The file would never be read, or could be another file or a device on a system that ignores case (macOS, Windows):
/// configurations are shared between machines.
fn new_file(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let path = dir.join(format!("{name}.toml"));
    if !is_config(&path) {
        return Err(format!(
            "a tunnel cannot be saved as \"{name}\": files named {name}.toml are not read"
        ));
    }
    if is_device(name) {
        return Err(format!(
            "a tunnel cannot be saved as \"{name}\": Windows reserves the file name"
        ));
    }
    let file = format!("{name}.toml");
    let entries = std::fs::read_dir(dir).ok().into_iter().flatten();
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    match names.find(|other| other.eq_ignore_ascii_case(&file) && *other != file) {
        Some(other) => Err(format!(
            "a tunnel cannot be saved as \"{name}\": the folder has {other}, which differs only in case"
        )),
        None => Ok(path),
    }
}

/// Whether Windows takes the file name for a device, with any extension (Naming Files, Paths, and Namespaces).
fn is_device(name: &str) -> bool {
    let stem = name
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix)
            .is_some_and(|rest| matches!(rest.as_bytes(), [b'1'..=b'9']))
    };
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

/// The first file that defines the tunnel; `None` if none does. Files that are too large or not TOML are skipped.
fn defining_file(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_config(path))
        .collect();
    paths.sort();
    paths.into_iter().find(|path| {
        let small = path
            .metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_FILE_SIZE);
        let text = small.then(|| std::fs::read_to_string(path).ok()).flatten();
        let document = text.and_then(|text| text.parse::<DocumentMut>().ok());
        document.is_some_and(|document| {
            let tunnels = document.get("tunnel").and_then(Item::as_table_like);
            tunnels.is_some_and(|tunnels| tunnels.contains_key(name))
        })
    })
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
