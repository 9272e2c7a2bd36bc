//! Copies of the configuration files on disk, in the state folder: a daemon that starts while a file has errors runs the
//! last text of it that had none. Everything here blocks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tunneld_platform::fs::{create_private_dir, replace};

use crate::env::Env;
use crate::parse::file::{MAX_FILE_SIZE, check_folder, read_text};

/// The folder of the copies.
#[derive(Debug, Clone)]
pub(crate) struct CopyFolder(PathBuf);

/// A configuration file as it was when it last had no errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileCopy {
    /// The path of the configuration file, not of the copy.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// The text of tunneld.toml whose `[defaults]` applied to the file; empty if there was none.
    pub(crate) main_text: String,
}

/// The copies to write after a load. Made by [`Loader::copy_job`](crate::load::Loader::copy_job).
#[derive(Debug)]
pub struct CopyJob {
    pub(crate) folder: CopyFolder,
    pub(crate) env: Env,
    /// The configuration directory.
    pub(crate) dir: PathBuf,
    /// The files that exist; copies of others are removed.
    pub(crate) existing: BTreeSet<PathBuf>,
    pub(crate) copies: Vec<FileCopy>,
}

impl CopyJob {
    /// Writes the copies that differ from those on disk, and removes those of removed files. Blocks.
    ///
    /// # Errors
    /// The operating system's first error. The other copies are written all the same.
    pub fn run(self) -> std::io::Result<()> {
        create_private_dir(&self.folder.0)?;
        let mut result = Ok(());
        for copy in &self.copies {
            if self.folder.read(&copy.path, &self.env).as_ref() == Some(copy) {
                continue;
            }
            let text = copy.to_json();
            // A copy that is too large to be read again is useless.
            if text.len() as u64 <= MAX_FILE_SIZE {
                let written = replace(&self.folder.file(&copy.path), text.as_bytes());
                result = result.and(written);
            }
        }
        for entry in std::fs::read_dir(&self.folder.0)? {
            let file = entry?.path();
            let Some(copy) = read_copy(&file, &self.env) else {
                continue;
            };
            // The folder also has the copies of other configuration directories (`--config-dir`).
            if copy.path.parent() == Some(&self.dir) && !self.existing.contains(&copy.path) {
                result = result.and(std::fs::remove_file(&file));
            }
        }
        result
    }
}

impl CopyFolder {
    /// The folder in `$XDG_STATE_HOME/tunneld`, else in `~/.local/state/tunneld`.
    pub(crate) fn of(env: &Env) -> Self {
        let state = env
            .variable("XDG_STATE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .unwrap_or_else(|| env.home.join(".local").join("state"));
        Self(state.join("tunneld").join("last-good"))
    }

    /// The copy of a configuration file; `None` if there is none that can be trusted.
    pub(crate) fn read(&self, path: &Path, env: &Env) -> Option<FileCopy> {
        check_folder(&self.0, env).ok()?;
        read_copy(&self.file(path), env).filter(|copy| copy.path == path)
    }

    /// The file of a copy. Named by a hash, because files of the same name may be in several configuration directories.
    fn file(&self, path: &Path) -> PathBuf {
        // FNV-1a: the standard library's hash may change with its version, and the name must not.
        let hash = path
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        self.0.join(format!("{hash:016x}.json"))
    }
}

impl FileCopy {
    fn to_json(&self) -> String {
        json!({
            "path": self.path.to_string_lossy(),
            "text": self.text,
            "main_text": self.main_text,
        })
        .to_string()
    }
}

fn read_copy(file: &Path, env: &Env) -> Option<FileCopy> {
    let text = read_text(file, env).ok()??;
    let value: Value = serde_json::from_str(&text).ok()?;
    let field = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
    Some(FileCopy {
        path: field("path")?.into(),
        text: field("text")?,
        main_text: field("main_text")?,
    })
}
