//! Notices when the configuration may have changed, from file system events of the directory and by polling.
//!
//! The directory is watched and not its files, because the watch of a file ends with the first save by rename. Polling
//! catches changes that raise no event: files behind symbolic links, a directory that is replaced or does not exist
//! yet, an overflow of the event queue.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tunneld_platform::fs::FileId;
use tunneld_platform::panic;

/// Time without events after which a change is reported. Editors and package managers save in several steps (temporary
/// file, rename, mode), which must not cause one reload each.
const QUIET: Duration = Duration::from_millis(200);
/// Longest delay of a change while more events arrive, so that a program that keeps writing to the directory cannot
/// prevent reloads.
const AT_MOST: Duration = Duration::from_millis(600);
/// Longest wait for the contents of a file that has just become empty. Programs that write a file in place truncate it
/// first; a reload in between would remove its tunnels.
const EMPTY_AT_MOST: Duration = Duration::from_secs(3);
/// Polling interval if events are expected for every change.
const POLL_WITH_EVENTS: Duration = Duration::from_secs(2);
/// Polling interval if changes may raise no event.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_millis(600);

/// Watches a configuration directory, which need not exist, and single files elsewhere.
#[derive(Debug)]
pub struct Watcher {
    dir: PathBuf,
    /// Files outside the directory; they are polled only.
    files: Vec<PathBuf>,
    /// Holds one item if events have arrived since the last receive.
    events: mpsc::Receiver<()>,
    sender: mpsc::Sender<()>,
    watch: Option<EventSource>,
    /// Directory that the watch is attached to. `None` without a watch.
    watched_dir: Option<FileId>,
    /// State that was last reported, or that the watcher started with.
    reported: ConfigSnapshot,
}

/// Metadata of the directory and all configuration files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct ConfigSnapshot {
    /// `None` if the directory does not exist.
    dir: Option<FileId>,
    files: Vec<(PathBuf, Stamp)>,
    /// Whether the directory or a file is a symbolic link: changes behind it raise no event here.
    has_symlink: bool,
}

impl ConfigSnapshot {
    /// Returns whether a file is empty now that had contents before.
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
    /// Mode and ctime: `chmod` and `chown` change neither size nor mtime, but decide whether a file is accepted.
    changed: (u32, i64, i64),
}

/// A watch of a directory whose panics are errors: the crate panics if it could not create its thread.
#[derive(Debug)]
struct EventSource(Option<RecommendedWatcher>);

impl EventSource {
    fn new(dir: &Path, on_event: impl notify::EventHandler) -> notify::Result<Self> {
        let watcher = panic::catch(|| notify::recommended_watcher(on_event))??;
        // `source` owns the watcher already: if the unwinding of a panic in `watch` dropped it, the panic of its destructor
        // would abort the process.
        let mut source = Self(Some(watcher));
        if let Some(watcher) = &mut source.0 {
            panic::catch(|| watcher.watch(dir, RecursiveMode::NonRecursive))??;
        }
        Ok(source)
    }
}

impl Drop for EventSource {
    fn drop(&mut self) {
        if let Err(error) = panic::catch(|| drop(self.0.take())) {
            tracing::debug!(%error, "the file system events of the configuration directory had ended already");
        }
    }
}

impl Watcher {
    /// Starts to watch `dir`. The state at this moment counts as reported.
    pub fn new(dir: &Path) -> Self {
        // One place is enough: an event only says that the snapshot must be compared.
        let (sender, events) = mpsc::channel(1);
        let mut watcher = Self {
            dir: dir.to_owned(),
            files: Vec::new(),
            events,
            sender,
            watch: None,
            watched_dir: None,
            reported: ConfigSnapshot::default(),
        };
        watcher.reported = watcher.snapshot();
        watcher.attach();
        watcher
    }

    /// Also watches these files, such as `~/.ssh/config`, by polling.
    pub fn add_files(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        self.files.extend(files);
        self.reported = self.snapshot();
    }

    /// Waits until the metadata of the configuration differs from the last reported state and no more changes follow.
    ///
    /// # Cancel safety
    /// No change is lost if the future is dropped: the next call compares with the last reported state.
    pub async fn changed(&mut self) {
        loop {
            self.attach();
            // A call that was dropped may have received the event of a change without reporting it.
            let already_changed = self.snapshot() != self.reported;
            let events_expected = self.watched_dir.is_some() && !self.reported.has_symlink;
            let next_poll = Instant::now()
                + if events_expected {
                    POLL_WITH_EVENTS
                } else {
                    POLL_WITHOUT_EVENTS
                };
            tokio::select! {
                () = std::future::ready(()), if already_changed => self.settle().await,
                _ = self.events.recv() => self.settle().await,
                () = sleep_until(next_poll) => {
                    if self.snapshot() != self.reported {
                        self.settle().await;
                    }
                }
            }
            // The change may be the replacement of the directory itself.
            self.attach();
            let mut snapshot = self.snapshot();
            let deadline = Instant::now() + EMPTY_AT_MOST;
            while snapshot.is_emptied_since(&self.reported) && Instant::now() < deadline {
                self.settle().await;
                snapshot = self.snapshot();
            }
            if snapshot != self.reported {
                self.reported = snapshot;
                return;
            }
        }
    }

    /// Returns whether the configuration differs from the last reported state, without waiting for more changes. The
    /// difference counts as reported then.
    ///
    /// A file that has just become empty is not a change yet: the program that writes it is not done, and
    /// [`Self::changed`] waits for it.
    pub fn take_change(&mut self) -> bool {
        let snapshot = self.snapshot();
        if snapshot == self.reported || snapshot.is_emptied_since(&self.reported) {
            return false;
        }
        self.reported = snapshot;
        true
    }

    /// Waits until no event has arrived for [`QUIET`], at most for [`AT_MOST`].
    async fn settle(&mut self) {
        let deadline = Instant::now() + AT_MOST;
        loop {
            let quiet = deadline.min(Instant::now() + QUIET);
            if timeout_at(quiet, self.events.recv()).await.is_err() {
                return;
            }
        }
    }

    /// Attaches the watch to the directory that is at the path now, if it is not attached to it already.
    fn attach(&mut self) {
        let dir = self
            .dir
            .metadata()
            .ok()
            .map(|metadata| FileId::of(&metadata));
        if dir == self.watched_dir && self.watch.is_some() == dir.is_some() {
            return;
        }
        self.watch = None;
        self.watched_dir = None;
        if dir.is_none() {
            return;
        }
        let sender = self.sender.clone();
        let on_event = move |event: notify::Result<notify::Event>| {
            // Reading the files raises access events too. To react to those would be an endless loop.
            if !matches!(
                event,
                Ok(notify::Event {
                    kind: EventKind::Access(_),
                    ..
                })
            ) {
                // A full queue already holds an event, and one is enough.
                let _ = sender.try_send(());
            }
        };
        match EventSource::new(&self.dir, on_event) {
            Ok(watch) => {
                self.watch = Some(watch);
                self.watched_dir = dir;
            }
            Err(error) => {
                tracing::debug!(dir = %self.dir.display(), %error, "no file system events for the configuration directory; polling it instead");
            }
        }
    }

    fn snapshot(&self) -> ConfigSnapshot {
        let mut snapshot = ConfigSnapshot {
            dir: self
                .dir
                .metadata()
                .ok()
                .map(|metadata| FileId::of(&metadata)),
            has_symlink: self.dir.is_symlink(),
            ..ConfigSnapshot::default()
        };
        let entries = std::fs::read_dir(&self.dir).ok().into_iter().flatten();
        let inside = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| tunneld_config::is_config(path));
        for path in inside.chain(self.files.iter().cloned()) {
            snapshot.has_symlink |= path.is_symlink();
            if let Ok(metadata) = path.metadata() {
                snapshot.files.push((path, stamp(&metadata)));
            }
        }
        // read_dir returns entries in no particular order.
        snapshot.files.sort_by(|a, b| a.0.cmp(&b.0));
        snapshot
    }
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    Stamp {
        identity: FileId::of(metadata),
        size: metadata.len(),
        modified: metadata.modified().ok(),
        changed: changed(metadata),
    }
}

#[cfg(unix)]
fn changed(metadata: &std::fs::Metadata) -> (u32, i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.mode(), metadata.ctime(), metadata.ctime_nsec())
}
#[cfg(not(unix))]
fn changed(_metadata: &std::fs::Metadata) -> (u32, i64, i64) {
    (0, 0, 0)
}

// Two attributes: clippy recognizes a test module only by a plain `cfg(test)`.
#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

    async fn expect_change(watcher: &mut Watcher) {
        timeout(CHANGE_TIMEOUT, watcher.changed())
            .await
            .expect("the change is reported");
    }
    async fn expect_no_change(watcher: &mut Watcher) {
        let waited = timeout(Duration::from_millis(900), watcher.changed()).await;
        assert!(waited.is_err(), "nothing has changed");
    }

    #[tokio::test]
    async fn every_save_by_rename_is_reported_and_reading_is_not() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut watcher = Watcher::new(dir.path());
        for round in 0..3 {
            fs::write(dir.path().join(".a.tmp"), format!("# {round}")).unwrap();
            fs::rename(dir.path().join(".a.tmp"), dir.path().join("a.toml")).unwrap();
            expect_change(&mut watcher).await;
        }
        fs::read(dir.path().join("a.toml")).unwrap();
        fs::write(dir.path().join("notes.txt"), "x").unwrap();
        expect_no_change(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_directory_may_be_created_removed_and_replaced_by_a_link() {
        let root = tempfile::TempDir::new().unwrap();
        let dir = root.path().join("conf");
        let mut watcher = Watcher::new(&dir);
        fs::create_dir(&dir).unwrap();
        expect_change(&mut watcher).await;
        fs::write(dir.join("a.toml"), "").unwrap();
        expect_change(&mut watcher).await;
        fs::remove_dir_all(&dir).unwrap();
        expect_change(&mut watcher).await;
        for name in ["one", "two"] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("a.toml"), name).unwrap();
        }
        symlink("one", &dir).unwrap();
        expect_change(&mut watcher).await;
        symlink("two", root.path().join("next")).unwrap();
        fs::rename(root.path().join("next"), &dir).unwrap();
        expect_change(&mut watcher).await;
        // The watch is attached to the new directory.
        fs::write(root.path().join("two/a.toml"), "# more").unwrap();
        expect_change(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_truncated_file_is_reported_once_it_has_contents_again() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, "# one").unwrap();
        let mut watcher = Watcher::new(dir.path());
        let writing = async {
            fs::write(&file, "").unwrap();
            tokio::time::sleep(2 * AT_MOST).await;
            fs::write(&file, "# two").unwrap();
        };
        tokio::join!(expect_change(&mut watcher), writing);
        assert_eq!(watcher.reported.files[0].1.size, 5);
        fs::write(&file, "").unwrap();
        expect_change(&mut watcher).await;
    }

    #[tokio::test]
    async fn changes_of_added_files_are_reported() {
        let dir = tempfile::TempDir::new().unwrap();
        let other = tempfile::TempDir::new().unwrap();
        let file = other.path().join("config");
        let mut watcher = Watcher::new(dir.path());
        watcher.add_files([file.clone()]);
        fs::write(&file, "Host x").unwrap();
        expect_change(&mut watcher).await;
    }
}
