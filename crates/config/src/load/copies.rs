//! Which files are copied to the state folder after a reading, for a start with a broken file.

use super::Loader;
use crate::last_good::{CopyJob, FileCopy};
use crate::scan::{Candidate, MAIN_FILE};

impl Loader {
    /// The copies of these files. Those that are not in their present state are left as they are on disk.
    pub(super) fn copies_of(&self, accepted: &[Candidate]) -> Option<CopyJob> {
        let folder = self.copies.clone()?;
        let main = self.dir.join(MAIN_FILE);
        let main_text = match accepted.iter().find(|candidate| candidate.path == main) {
            // With defaults that are not the present ones, a copy would not be what the next start reads.
            Some(candidate) if candidate.stale => return None,
            Some(candidate) => candidate.file.source.text(),
            None if self.files.contains_key(&main) => return None,
            None => "",
        };
        let good = accepted
            .iter()
            .filter(|candidate| !candidate.stale && candidate.file.parsed.broken.is_empty());
        let copies = good.map(|candidate| FileCopy {
            path: candidate.path.clone(),
            text: candidate.file.source.text().to_owned(),
            main_text: main_text.to_owned(),
        });
        Some(CopyJob {
            folder,
            env: self.env.clone(),
            dir: self.dir.clone(),
            existing: self.files.keys().cloned().collect(),
            copies: copies.collect(),
        })
    }
}
