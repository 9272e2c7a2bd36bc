//! One reading of the configuration directory: lists the files, reads and parses each, and falls back to the last good
//! state of those with errors. Everything here blocks; the loader's caller runs it where that is allowed.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use tunneld_proto::message::ConfigFault;
use tunneld_toml::name::is_config;

use crate::diagnostic::{Diagnostic, SourceText, file_fault};
use crate::env::Env;
use crate::last_good::CopyFolder;
use crate::layer::Layer;
use crate::parse::file::{self, ParsedFile, UnreadableCause};
use crate::try_again::TryAgain;

/// The most files of a directory that are read.
const MAX_FILES: usize = 256;
/// The file whose `[defaults]` apply to all files.
pub(crate) const MAIN_FILE: &str = "tunneld.toml";
/// The most errors of one file that are reported one by one.
const MAX_FAULTS_PER_FILE: usize = 100;

/// What the loader remembers of a file between readings.
#[derive(Debug, Clone)]
pub(crate) struct KnownFile {
    /// The number of the file in spans.
    pub(crate) id: usize,
    /// The last text without errors; `None` if there was none yet.
    pub(crate) good: Option<GoodFile>,
}

impl KnownFile {
    /// Takes an earlier daemon's copy for the last good state, if this daemon has none.
    fn use_copy(&mut self, path: &Path, folder: Option<&CopyFolder>, env: &Env) {
        let (None, Some(folder)) = (&self.good, folder) else {
            return;
        };
        let Some(copy) = folder.read(path, env) else {
            return;
        };
        let (parsed, diagnostics) = file::parse(self.id, &copy.text);
        let (main, main_diagnostics) = file::parse(self.id, &copy.main_text);
        // Written by another version of tunneld, whose keys may differ.
        if !diagnostics.is_empty() || !main_diagnostics.is_empty() {
            return;
        }
        self.good = Some(GoodFile {
            hash: hash(&copy.text),
            source: SourceText::new(path.display().to_string(), copy.text),
            parsed,
            copied_defaults: Some(main.defaults),
        });
    }
}

/// A file's text that was parsed without an error.
#[derive(Debug, Clone)]
pub(crate) struct GoodFile {
    /// The hash of the text, to recognize an unchanged file.
    pub(crate) hash: u64,
    pub(crate) source: SourceText,
    pub(crate) parsed: ParsedFile,
    /// tunneld.toml's `[defaults]` of the time when the text was good, if it is a copy of an earlier daemon; `None` if
    /// this daemon read the text, and the present ones apply.
    pub(crate) copied_defaults: Option<Layer>,
}

/// What this reading would use of a file, unless it conflicts with another file.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) id: usize,
    pub(crate) path: PathBuf,
    pub(crate) file: GoodFile,
    /// The text is the one of the last reading.
    pub(crate) unchanged: bool,
    /// The file's present text has errors; this is an earlier one.
    pub(crate) stale: bool,
}

/// The tables without errors of a file that has errors. They are checked further, so that the user sees all errors at
/// once, and are never run.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) id: usize,
    pub(crate) source: SourceText,
    pub(crate) parsed: ParsedFile,
}

/// The last good state of every file.
pub(crate) fn stale_candidates(files: &BTreeMap<PathBuf, KnownFile>) -> Vec<Candidate> {
    files
        .iter()
        .filter_map(|(path, known)| last_good(path, known, true))
        .collect()
}

fn last_good(path: &Path, known: &KnownFile, stale: bool) -> Option<Candidate> {
    Some(Candidate {
        id: known.id,
        path: path.to_owned(),
        file: known.good.clone()?,
        unchanged: true,
        stale,
    })
}

/// The result of a [`Scan`], for the loader.
#[derive(Debug)]
pub struct Scanned(pub(crate) Scan);

/// One reading of the directory. It works on a copy of what the loader knows, so that a reading that fails changes
/// nothing.
#[derive(Debug)]
pub struct Scan {
    pub(crate) dir: PathBuf,
    pub(crate) env: Env,
    pub(crate) files: BTreeMap<PathBuf, KnownFile>,
    pub(crate) next_id: usize,
    pub(crate) dir_required: bool,
    pub(crate) faults: Vec<ConfigFault>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) drafts: Vec<Draft>,
    /// The directory exists but could not be listed.
    pub(crate) unlisted: bool,
    /// Where the copies of an earlier daemon are; `None` to use none.
    pub(crate) copies: Option<CopyFolder>,
    /// When what could not be read now is read again.
    pub(crate) try_again: TryAgain,
}

/// Why the directory cannot be listed.
enum ListError {
    /// It does not exist.
    Missing,
    /// It is not trusted or cannot be read.
    Unusable(ConfigFault),
}

impl Scan {
    /// Reads the directory and parses every file. Blocks.
    #[must_use]
    pub fn run(mut self) -> Scanned {
        match self.list() {
            Ok(paths) => {
                // A removed file takes its tunnels with it.
                self.files.retain(|path, _| paths.contains(path));
                for path in paths {
                    self.read(path);
                }
            }
            Err(error) => self.keep_last_good(error),
        }
        Scanned(self)
    }

    /// A directory that disappears for a moment (an unmounted home) must not stop the tunnels.
    fn keep_last_good(&mut self, error: ListError) {
        let dir = self.dir.display().to_string();
        // A directory that does not exist may be in a home that is mounted later.
        self.try_again = TryAgain::Soon;
        match error {
            // Someone who has not configured anything yet has no directory, which is not an error.
            ListError::Missing if !self.dir_required && self.files.is_empty() => {}
            ListError::Missing => self.faults.push(file_fault(
                &dir,
                "the configuration folder does not exist",
                "create it and put a *.toml file into it",
            )),
            ListError::Unusable(fault) => {
                self.unlisted = true;
                self.faults.push(fault);
            }
        }
        self.candidates = stale_candidates(&self.files);
    }

    /// The paths of the configuration files, sorted.
    fn list(&mut self) -> Result<Vec<PathBuf>, ListError> {
        let dir = self.dir.display().to_string();
        file::check_folder(&self.dir, &self.env)
            .map_err(|error| ListError::Unusable(file_fault(&dir, &error.message, &error.help)))?;
        let list_error = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => ListError::Missing,
            _ => ListError::Unusable(file_fault(
                &dir,
                &format!("cannot be read: {error}"),
                &format!("run: chmod u+rx {dir}"),
            )),
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(list_error)? {
            // An error fails the whole listing: an entry that is skipped would count as a removed file.
            paths.push(entry.map_err(list_error)?.path());
        }
        paths.retain(|path| is_config(path));
        // Sorted, so that each reading accepts the same files and reports in the same order. The main file is first:
        // the limit below must not cut it off, because the others would then run without its defaults.
        paths.sort_by_key(|path| (!path.ends_with(MAIN_FILE), path.clone()));
        if paths.len() > MAX_FILES {
            let message = format!(
                "contains more than {MAX_FILES} configuration files; only the first {MAX_FILES} are read"
            );
            self.faults.push(file_fault(
                &dir,
                &message,
                "put several tunnels into one file",
            ));
            paths.truncate(MAX_FILES);
        }
        Ok(paths)
    }

    fn read(&mut self, path: PathBuf) {
        let name = path.display().to_string();
        let known = self.files.entry(path.clone()).or_insert_with(|| {
            self.next_id += 1;
            KnownFile {
                id: self.next_id,
                good: None,
            }
        });
        let text = match file::read_text(&path, &self.env) {
            Ok(Some(text)) => text,
            // Removed since the directory was listed.
            Ok(None) => {
                self.files.remove(&path);
                self.try_again = TryAgain::Soon;
                return;
            }
            Err(error) => {
                if error.cause == UnreadableCause::Moment {
                    self.try_again = TryAgain::Soon;
                }
                self.faults
                    .push(file_fault(&name, &error.message, &error.help));
                known.use_copy(&path, self.copies.as_ref(), &self.env);
                self.candidates.extend(last_good(&path, known, true));
                return;
            }
        };
        let hash = hash(&text);
        // Compared by content, not by time: an editor may write a file without changing it, or twice in one second.
        let is_known = |good: &GoodFile| good.hash == hash && good.copied_defaults.is_none();
        let unchanged = known.good.as_ref().is_some_and(is_known);
        // The errors of a file with broken tunnels are reported at each reading.
        let is_whole = |good: &GoodFile| good.parsed.broken.is_empty();
        if unchanged && known.good.as_ref().is_some_and(is_whole) {
            self.candidates.extend(last_good(&path, known, false));
            return;
        }
        let (parsed, diagnostics) = file::parse(known.id, &text);
        let source = SourceText::new(name, text);
        if !diagnostics.is_empty() {
            report(&source, &diagnostics, &mut self.faults);
            known.use_copy(&path, self.copies.as_ref(), &self.env);
        }
        let is_copy = |good: &GoodFile| good.copied_defaults.is_some();
        // A tunnel with an error keeps its own last good state; only a new daemon's copy holds that of the whole file.
        let without_broken =
            parsed.only_tunnels_are_broken && !known.good.as_ref().is_some_and(is_copy);
        if diagnostics.is_empty() || without_broken {
            self.candidates.push(Candidate {
                id: known.id,
                path,
                file: GoodFile {
                    hash,
                    source,
                    parsed,
                    copied_defaults: None,
                },
                unchanged,
                stale: false,
            });
            return;
        }
        self.candidates.extend(last_good(&path, known, true));
        self.drafts.push(Draft {
            id: known.id,
            source,
            parsed,
        });
    }
}

/// Renders the errors of one file, at most [`MAX_FAULTS_PER_FILE`] of them.
pub(crate) fn report(
    source: &SourceText,
    diagnostics: &[Diagnostic],
    faults: &mut Vec<ConfigFault>,
) {
    faults.extend(
        diagnostics
            .iter()
            .take(MAX_FAULTS_PER_FILE)
            .map(|diagnostic| source.to_fault(diagnostic)),
    );
    if diagnostics.len() > MAX_FAULTS_PER_FILE {
        let message = format!(
            "and {} more errors",
            diagnostics.len() - MAX_FAULTS_PER_FILE
        );
        faults.push(source.to_fault(&Diagnostic::new(None, message)));
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
