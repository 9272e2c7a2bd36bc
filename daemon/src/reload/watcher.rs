//! Tells when the configuration may have changed: by the directory's events, and by looking now and then.
//!
//! The directory is watched, never a file: a file's watch dies with the first save by rename. Looking catches what
//! raises no event: linked files, a folder that is replaced or not there yet, an event queue that ran over.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tunneld_platform::fs::FileId;

/// How long it must be quiet before a change is told.
const QUIET: Duration = Duration::from_millis(200);
/// How long a change is kept back at most while writing goes on.
const AT_MOST: Duration = Duration::from_millis(600);
/// How long a file that has just become empty may take to be written.
const EMPTY_AT_MOST: Duration = Duration::from_secs(3);
/// How often is looked where events are trusted.
const SELDOM: Duration = Duration::from_secs(2);
/// How often is looked where there are none.
const OFTEN: Duration = Duration::from_millis(600);

/// Watches a configuration directory.
#[derive(Debug)]
pub struct Watcher {
    dir: PathBuf,
    also: Vec<PathBuf>,
    events: mpsc::Receiver<()>,
    sender: mpsc::Sender<()>,
    watch: Option<RecommendedWatcher>,
    /// The folder that the watch hangs on.
    armed: Option<FileId>,
    seen: Look,
}

/// All that looking can tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Look {
    folder: Option<FileId>,
    files: Vec<(PathBuf, Stamp)>,
    /// Whether a link leads elsewhere, so that events may be missing.
    linked: bool,
}

impl Look {
    /// Whether a file is empty now that was not.
    fn is_emptied_since(&self, before: &Self) -> bool {
        let was_full = |path: &Path| {
            let mut files = before.files.iter();
            files.any(|(file, stamp)| file == path && stamp.size > 0)
        };
        let mut files = self.files.iter();
        files.any(|(path, stamp)| stamp.size == 0 && was_full(path))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    identity: FileId,
    size: u64,
    modified: Option<SystemTime>,
    /// Mode and time of the last change of anything.
    changed: (u32, i64, i64),
}

impl Watcher {
    /// Watches `dir`, whether it is there or not.
    pub fn new(dir: &Path) -> Self {
        let (sender, events) = mpsc::channel(1);
        let mut watcher = Self {
            dir: dir.to_owned(),
            also: Vec::new(),
            events,
            sender,
            watch: None,
            armed: None,
            seen: Look::default(),
        };
        watcher.seen = watcher.look();
        watcher.arm();
        watcher
    }

    /// Looks at these files too, such as `~/.ssh/config`.
    pub fn also(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        self.also.extend(files);
        self.seen = self.look();
    }

    /// Waits until something may have changed, and it has been quiet for a moment. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            self.arm();
            // A change whose event was taken by a call that was dropped.
            let late = self.look() != self.seen;
            let trusted = self.armed.is_some() && !self.seen.linked;
            let next = Instant::now() + if trusted { SELDOM } else { OFTEN };
            tokio::select! {
                () = std::future::ready(()), if late => self.settle().await,
                _ = self.events.recv() => self.settle().await,
                () = sleep_until(next) => {
                    if self.look() != self.seen {
                        self.settle().await;
                    }
                }
            }
            self.arm();
            let mut look = self.look();
            let latest = Instant::now() + EMPTY_AT_MOST;
            // Whoever writes a file in its place empties it first.
            while look.is_emptied_since(&self.seen) && Instant::now() < latest {
                self.settle().await;
                look = self.look();
            }
            if look != self.seen {
                self.seen = look;
                return;
            }
        }
    }

    /// Waits until no event has come for a while, but not for ever.
    async fn settle(&mut self) {
        let latest = Instant::now() + AT_MOST;
        loop {
            let quiet = latest.min(Instant::now() + QUIET);
            if timeout_at(quiet, self.events.recv()).await.is_err() {
                return;
            }
        }
    }

    /// Hangs the watch on the folder that is at the path now.
    fn arm(&mut self) {
        let folder = self.dir.metadata().ok().map(|facts| FileId::of(&facts));
        if folder == self.armed && self.watch.is_some() == folder.is_some() {
            return;
        }
        self.watch = None;
        self.armed = None;
        if folder.is_none() {
            return;
        }
        let sender = self.sender.clone();
        let watch = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the files raises events of its own; answering those would go on for ever.
            if !matches!(
                event,
                Ok(notify::Event {
                    kind: EventKind::Access(_),
                    ..
                })
            ) {
                // A full queue holds one already, which is as good.
                let _ = sender.try_send(());
            }
        });
        match watch.and_then(|mut watch| {
            watch.watch(&self.dir, RecursiveMode::NonRecursive)?;
            Ok(watch)
        }) {
            Ok(watch) => {
                self.watch = Some(watch);
                self.armed = folder;
            }
            Err(error) => {
                tracing::debug!(dir = %self.dir.display(), %error, "no events for the configuration folder; looking instead");
            }
        }
    }

    fn look(&self) -> Look {
        let mut look = Look {
            folder: self.dir.metadata().ok().map(|facts| FileId::of(&facts)),
            linked: self.dir.is_symlink(),
            ..Look::default()
        };
        let entries = std::fs::read_dir(&self.dir).ok().into_iter().flatten();
        let inside = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| tunneld_config::is_config(path));
        for path in inside.chain(self.also.iter().cloned()) {
            look.linked |= path.is_symlink();
            if let Ok(facts) = path.metadata() {
                look.files.push((path, stamp(&facts)));
            }
        }
        look.files.sort_by(|a, b| a.0.cmp(&b.0));
        look
    }
}

fn stamp(facts: &std::fs::Metadata) -> Stamp {
    Stamp {
        identity: FileId::of(facts),
        size: facts.len(),
        modified: facts.modified().ok(),
        changed: changed(facts),
    }
}

#[cfg(unix)]
fn changed(facts: &std::fs::Metadata) -> (u32, i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (facts.mode(), facts.ctime(), facts.ctime_nsec())
}
#[cfg(not(unix))]
fn changed(_facts: &std::fs::Metadata) -> (u32, i64, i64) {
    (0, 0, 0)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn told(watcher: &mut Watcher) {
        timeout(SOON, watcher.changed())
            .await
            .expect("the change is told");
    }
    async fn silent(watcher: &mut Watcher) {
        let waited = timeout(Duration::from_millis(900), watcher.changed()).await;
        assert!(waited.is_err(), "nothing has changed");
    }

    #[tokio::test]
    async fn saves_by_rename_are_told_again_and_again_and_reading_is_not() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut watcher = Watcher::new(dir.path());
        for round in 0..3 {
            fs::write(dir.path().join(".a.tmp"), format!("# {round}")).unwrap();
            fs::rename(dir.path().join(".a.tmp"), dir.path().join("a.toml")).unwrap();
            told(&mut watcher).await;
        }
        fs::read(dir.path().join("a.toml")).unwrap();
        fs::write(dir.path().join("notes.txt"), "x").unwrap();
        silent(&mut watcher).await;
    }

    #[tokio::test]
    async fn folders_that_come_go_and_are_swapped() {
        let root = tempfile::TempDir::new().unwrap();
        let dir = root.path().join("conf");
        let mut watcher = Watcher::new(&dir);
        fs::create_dir(&dir).unwrap();
        told(&mut watcher).await;
        fs::write(dir.join("a.toml"), "").unwrap();
        told(&mut watcher).await;
        fs::remove_dir_all(&dir).unwrap();
        told(&mut watcher).await;
        for name in ["one", "two"] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("a.toml"), name).unwrap();
        }
        symlink("one", &dir).unwrap();
        told(&mut watcher).await;
        symlink("two", root.path().join("next")).unwrap();
        fs::rename(root.path().join("next"), &dir).unwrap();
        told(&mut watcher).await;
        // The watch hangs on the new folder.
        fs::write(root.path().join("two/a.toml"), "# more").unwrap();
        told(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_file_that_is_emptied_is_told_once_it_is_written() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, "# one").unwrap();
        let mut watcher = Watcher::new(dir.path());
        let writing = async {
            fs::write(&file, "").unwrap();
            tokio::time::sleep(2 * AT_MOST).await;
            fs::write(&file, "# two").unwrap();
        };
        tokio::join!(told(&mut watcher), writing);
        assert_eq!(watcher.seen.files[0].1.size, 5);
        fs::write(&file, "").unwrap();
        told(&mut watcher).await;
    }

    #[tokio::test]
    async fn other_files_count_too() {
        let dir = tempfile::TempDir::new().unwrap();
        let other = tempfile::TempDir::new().unwrap();
        let file = other.path().join("config");
        let mut watcher = Watcher::new(dir.path());
        watcher.also([file.clone()]);
        fs::write(&file, "Host x").unwrap();
        told(&mut watcher).await;
    }
}
