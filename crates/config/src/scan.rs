//! One round of reading the directory: which files there are, the text of each, and what stood good before.
//!
//! All of it blocks; the loader runs it off the runtime's threads.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use tunneld_proto::message::ConfigFault;

use crate::diagnostic::{Diagnostic, Source, unreadable};
use crate::env::Env;
use crate::parse::file::{self, Parsed};

/// The most files of a directory.
const MOST_FILES: usize = 256;

/// The most faults of one file that are told one by one.
const MOST_FAULTS: usize = 100;

const NO_FOLDER: &str = "the configuration folder is not there";

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) id: usize,
    pub(crate) good: Option<State>,
}

/// A file's text, parsed without a fault.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) hash: u64,
    pub(crate) source: Source,
    pub(crate) parsed: Parsed,
}

/// What a file is taken for in this round.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) id: usize,
    pub(crate) path: PathBuf,
    pub(crate) state: State,
    /// Its text is the one that was good before.
    pub(crate) unchanged: bool,
    /// Its present text is broken.
    pub(crate) stale: bool,
}

pub(crate) fn stale(files: &BTreeMap<PathBuf, Entry>) -> Vec<Candidate> {
    files
        .iter()
        .filter_map(|(path, entry)| {
            Some(Candidate {
                id: entry.id,
                path: path.clone(),
                state: entry.good.clone()?,
                unchanged: true,
                stale: true,
            })
        })
        .collect()
}

/// What a [`Scan`] has read.
#[derive(Debug)]
pub struct Scanned(pub(crate) Scan);

/// One round of reading; all of it blocks.
#[derive(Debug)]
pub struct Scan {
    pub(crate) dir: PathBuf,
    pub(crate) env: Env,
    pub(crate) files: BTreeMap<PathBuf, Entry>,
    pub(crate) next_id: usize,
    pub(crate) asked_for: bool,
    pub(crate) faults: Vec<ConfigFault>,
    pub(crate) candidates: Vec<Candidate>,
    /// What is whole in files that have faults: looked at for more of them, and never run.
    pub(crate) drafts: Vec<Draft>,
}

/// The good part of a file that has faults.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) id: usize,
    pub(crate) source: Source,
    pub(crate) parsed: Parsed,
}

impl Scan {
    /// Reads the directory and parses every file. Blocks.
    #[must_use]
    pub fn run(mut self) -> Scanned {
        self.read_dir();
        Scanned(self)
    }

    fn read_dir(&mut self) {
        let dir = self.dir.display().to_string();
        let listed = file::trusted_folder(&self.dir, &self.env)
            .map_err(|why| unreadable(&dir, &why.message, &why.help))
            .and_then(|()| self.list(&dir));
        let paths = match listed {
            Ok(paths) => paths,
            Err(fault) => {
                // A folder that is away for a moment takes nothing down; it never is there for a new user.
                if self.asked_for || !self.files.is_empty() || !fault.message.starts_with(NO_FOLDER)
                {
                    self.faults.push(fault);
                }
                self.candidates = stale(&self.files);
                return;
            }
        };
        self.files.retain(|path, _| paths.contains(path));
        for path in paths {
            self.read(path);
        }
    }

    fn list(&mut self, dir: &str) -> Result<Vec<PathBuf>, ConfigFault> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(unreadable(
                    dir,
                    NO_FOLDER,
                    "make it, and put a *.toml into it",
                ));
            }
            Err(error) => {
                return Err(unreadable(
                    dir,
                    &format!("cannot be read: {error}"),
                    "make it readable for you",
                ));
            }
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_config(path))
            .collect();
        paths.sort();
        if paths.len() > MOST_FILES {
            let message = format!(
                "holds more than {MOST_FILES} configuration files; only the first are read"
            );
            self.faults.push(unreadable(
                dir,
                &message,
                "put several tunnels into one file",
            ));
            paths.truncate(MOST_FILES);
        }
        Ok(paths)
    }

    fn read(&mut self, path: PathBuf) {
        let name = path.display().to_string();
        let entry = self.files.entry(path.clone()).or_insert_with(|| {
            self.next_id += 1;
            Entry {
                id: self.next_id,
                good: None,
            }
        });
        let old = |entry: &Entry, stale| {
            Some(Candidate {
                id: entry.id,
                path: path.clone(),
                state: entry.good.clone()?,
                unchanged: true,
                stale,
            })
        };
        let text = match file::text(&path, &self.env) {
            Ok(Some(text)) => text,
            Ok(None) => {
                self.files.remove(&path);
                return;
            }
            Err(why) => {
                self.faults.push(unreadable(&name, &why.message, &why.help));
                self.candidates.extend(old(entry, true));
                return;
            }
        };
        let hash = hash(&text);
        if entry.good.as_ref().is_some_and(|good| good.hash == hash) {
            self.candidates.extend(old(entry, false));
            return;
        }
        let (parsed, problems) = file::parse(entry.id, &text);
        let source = Source::new(name, text);
        if problems.is_empty() {
            self.candidates.push(Candidate {
                id: entry.id,
                path,
                state: State {
                    hash,
                    source,
                    parsed,
                },
                unchanged: false,
                stale: false,
            });
            return;
        }
        tell(&source, &problems, &mut self.faults);
        self.candidates.extend(old(entry, true));
        self.drafts.push(Draft {
            id: entry.id,
            source,
            parsed,
        });
    }
}

pub(crate) fn tell(source: &Source, problems: &[Diagnostic], faults: &mut Vec<ConfigFault>) {
    faults.extend(
        problems
            .iter()
            .take(MOST_FAULTS)
            .map(|problem| source.fault(problem)),
    );
    if problems.len() > MOST_FAULTS {
        let message = format!("and {} more faults", problems.len() - MOST_FAULTS);
        faults.push(source.fault(&Diagnostic::new(None, message)));
    }
}

/// `*.toml`, but nothing hidden and nothing that an editor left.
pub fn is_config(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| {
        name.ends_with(".toml") && !name.starts_with(['.', '#', '~']) && !name.contains(".swp")
    })
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
