//! Writes a file that other programs read.

use std::io::Write as _;
use std::path::Path;

use crate::exit::{Exit, FAILED};

/// Replaces the file at `path` in one step: no reader ever sees half of it.
///
/// # Errors
/// `FAILED` with the system's error.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Exit> {
    replace(path, text).map_err(|err| {
        Exit::new(FAILED, format!("writing {} failed", path.display()))
            .caused_by(&err)
            .hint("name a file in a directory that you can write")
    })
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
