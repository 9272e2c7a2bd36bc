//! File operations that the standard library lacks: atomic replacement, private folders, identity by device and
//! inode.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// Creates a folder and its missing parents, accessible to the owner alone (mode 0700; Windows: inherited rights).
///
/// A folder that already exists keeps its mode.
///
/// # Errors
/// The operating system's error if the folder cannot be created.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Replaces the file at `path` with `contents` in one step: a reader sees the old file or the new one, and a full
/// disk leaves the old file unchanged.
///
/// The new file is written beside the old one, synced, and renamed over it. It keeps the old file's mode; a new file
/// gets mode 0600. A symbolic link is followed, so that the link itself stays.
///
/// # Errors
/// The operating system's error; the old file is unchanged in that case.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    // rename(2) would replace a symbolic link instead of the file that it points to.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Hidden, and with a random part: folder watchers and readers of the folder skip hidden files, and a file that a
    // killed process left behind is never in the way.
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{:016x}", rand::random::<u64>()));
    let temporary = folder.join(name);
    let result = write_new(&temporary, &target, contents)
        .and_then(|()| std::fs::rename(&temporary, &target))
        .and_then(|()| sync_dir(folder));
    if result.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

fn write_new(temporary: &Path, target: &Path, contents: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(temporary)?;
    if let Ok(old) = std::fs::metadata(target) {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(contents)?;
    file.sync_all()
}

/// Makes a rename in `folder` durable. Windows cannot sync a folder and does nothing.
fn sync_dir(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _: (&Path, fn(&Path) -> io::Result<File>) = (folder, |path| File::open(path));
    Ok(())
}

/// Identity of a file on this machine: device and inode number. Two paths with the same `FileId` name the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Identity of the file that `metadata` describes. Without inodes (Windows) every file has the same identity.
    pub fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            Self {
                device: metadata.dev(),
                inode: metadata.ino(),
            }
        }
        #[cfg(not(unix))]
        {
            let _ = metadata;
            Self {
                device: 0,
                inode: 0,
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_new_file_is_private_and_an_old_one_keeps_its_mode_and_link() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        replace(&file, b"one").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, b"two").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(mode(&file), 0o640);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("folder");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("keep"), b"old").unwrap();
        // A folder that is not empty cannot be renamed over.
        assert!(replace(&target, b"new").is_err());
        assert_eq!(std::fs::read(target.join("keep")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
