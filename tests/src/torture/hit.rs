//! Where a failure hit: the lines of strace's output that it marks with `(INJECTED)`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// The mark that strace puts behind a call that it made fail.
const MARK: &str = " (INJECTED)";

/// One call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    /// When it was made.
    pub(super) at: SystemTime,
    /// The call with its arguments; behind each descriptor is its file or its addresses.
    pub(super) text: String,
    /// What the error number means, such as `Too many open files`.
    pub(super) error: String,
}

impl Hit {
    /// Returns the hits in what `strace -f -yy -ttt` wrote.
    pub(super) fn all(trace: &str) -> Vec<Self> {
        // The start of a call whose line another thread interrupted, by thread.
        let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
        let mut hits = Vec::new();
        for line in trace.lines() {
            let Some((thread, rest)) = line.trim().split_once(' ') else {
                continue;
            };
            let Some((time, call)) = rest.trim_start().split_once(' ') else {
                continue;
            };
            if let Some(start) = call.strip_suffix("<unfinished ...>") {
                unfinished.insert(thread, start);
            }
            let Some(call) = call.strip_suffix(MARK) else {
                continue;
            };
            let text = match call.split_once(" resumed>") {
                Some((_, end)) => unfinished.remove(thread).unwrap_or_default().to_owned() + end,
                None => call.to_owned(),
            };
            let error = call
                .rsplit_once(" (")
                .and_then(|(_, error)| error.strip_suffix(')'));
            hits.push(Self {
                at: SystemTime::UNIX_EPOCH
                    + Duration::from_secs_f64(time.parse().unwrap_or_default()),
                error: error.unwrap_or_default().to_owned(),
                text,
            });
        }
        hits
    }

    /// The name of the call.
    pub(super) fn call(&self) -> &str {
        self.text.split('(').next().unwrap_or_default()
    }

    /// Whether the call may concern a connection to or from one of `ports`: it names the port, or it makes the socket.
    pub(super) fn concerns(&self, ports: &[u16]) -> bool {
        let numbers: Vec<&str> = self
            .text
            .split(|letter: char| !letter.is_ascii_digit())
            .collect();
        // A socket without a peer is shown as `TCP:[INODE]`.
        let without_peer = self.text.contains("<TCP:[") && !self.text.contains("->");
        let named = |port: &u16| numbers.contains(&port.to_string().as_str());
        self.call() == "socket" || without_peer || ports.iter().any(named)
    }

    /// Whether the call is one of the watcher of the configuration, whose files are in `dir`.
    pub(super) fn is_of_the_watcher(&self, dir: &str) -> bool {
        let metadata = matches!(
            self.call(),
            "statx" | "newfstatat" | "getdents64" | "readlink"
        );
        self.text.contains("inotify")
            // Of the configuration, the watcher reads the metadata and the loader the contents.
            || (self.text.contains(dir) && (metadata || self.text.contains("O_DIRECTORY")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_found_with_their_arguments() {
        let trace = "10 1.5 read(3</tmp/c>, \"x\", 1) = 1\n\
                     10 2.5 read(4<TCP:[127.0.0.1:40:->127.0.0.1:22]>,  <unfinished ...>\n\
                     11 2.6 read(9</x>, 0x1, 8) = -1 EIO (Input/output error) (INJECTED)\n\
                     10 2.7 <... read resumed> 0x1, 8) = -1 EIO (Input/output error) (INJECTED)\n";
        let hits = Hit::all(trace);
        assert_eq!(hits.len(), 2);
        assert_eq!(hits[0].call(), "read");
        assert_eq!(hits[0].error, "Input/output error");
        assert_eq!(
            hits[0].at,
            SystemTime::UNIX_EPOCH + Duration::from_millis(2600)
        );
        assert!(hits[1].text.starts_with("read(4<TCP"));
        assert!(hits[1].concerns(&[22]) && !hits[1].concerns(&[2, 27]));
    }

    #[test]
    fn calls_of_the_watcher_are_told_from_those_of_the_loader() {
        let hit = |text: &str| Hit {
            at: SystemTime::UNIX_EPOCH,
            text: text.to_owned(),
            error: String::new(),
        };
        let watcher = |text| hit(text).is_of_the_watcher("/h/config");
        assert!(watcher("statx(AT_FDCWD</h>, \"/h/config\", 0)"));
        assert!(watcher("read(7<anon_inode:inotify>, 0x1, 64)"));
        assert!(watcher("inotify_init1(0)"));
        assert!(!watcher(
            "openat(AT_FDCWD</h>, \"/h/config/t.toml\", O_RDONLY)"
        ));
        assert!(!watcher("statx(AT_FDCWD</h>, \"/h/known_hosts\", 0)"));
    }
}
