//! Detects that the user has changed something a failed login depends on: key files, known_hosts files, the agent's
//! socket. A tunnel that failed or retries slowly then dials at once.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::failure::Recovery;
use crate::session;
use tunneld_config::model::Route;

/// How often a waiting tunnel compares the files.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The state of the files at the time of the failure.
#[derive(Debug)]
pub struct FileSnapshot(Vec<(PathBuf, Option<Stamp>)>);

/// What is compared of one file.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    /// In bytes.
    len: u64,
    identity: FileIdentity,
    /// Whether it can be opened; `true` for everything but regular files. A file can be examined and still fail to
    /// open: an I/O error, a server of network files that has restarted.
    opens: bool,
}

/// What `chmod`, `chown` and a replacement change without touching the content.
#[cfg(unix)]
#[derive(Debug, PartialEq, Eq)]
struct FileIdentity {
    inode: u64,
    mode: u32,
    owner: u32,
    group: u32,
}

#[cfg(not(unix))]
type FileIdentity = ();

impl FileSnapshot {
    /// Records the files of `route` whose change can cure a failure with this recovery.
    pub fn new(route: &Route, recovery: Recovery) -> Self {
        let auth = &route.auth;
        let mut files: Vec<PathBuf> = auth.identity_files.clone();
        let certificates = auth.identity_files.iter();
        files.extend(certificates.map(|key| session::certificate_path(key)));
        files.extend_from_slice(&auth.certificate_files);
        files.extend(session::agent_socket(&auth.agent));
        // Other host keys do not cure a refused login, and known_hosts changes often: each change would cost a login
        // attempt.
        if recovery == Recovery::NeedsUser {
            let keys = &route.host_keys;
            files.extend_from_slice(&keys.user_files);
            files.extend_from_slice(&keys.global_files);
            files.extend_from_slice(&keys.revoked_files);
        }
        let stamped = files.into_iter().map(|file| {
            let stamp = stamp(&file);
            (file, stamp)
        });
        Self(stamped.collect())
    }

    /// Whether a file was created, removed or changed since the snapshot.
    pub fn has_changed(&self) -> bool {
        self.0.iter().any(|(file, before)| stamp(file) != *before)
    }
}

/// `None` if the file does not exist or cannot be examined.
fn stamp(file: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(file).ok()?;
    Some(Stamp {
        modified: meta.modified().ok(),
        len: meta.len(),
        identity: identity(&meta),
        // Only a regular file is opened: a FIFO would wait for a writer.
        opens: !meta.is_file() || std::fs::File::open(file).is_ok(),
    })
}

#[cfg(unix)]
fn identity(meta: &std::fs::Metadata) -> FileIdentity {
    use std::os::unix::fs::MetadataExt as _;
    FileIdentity {
        inode: meta.ino(),
        mode: meta.mode(),
        owner: meta.uid(),
        group: meta.gid(),
    }
}

#[cfg(not(unix))]
fn identity(_meta: &std::fs::Metadata) -> FileIdentity {}

#[cfg(test)]
mod tests {
    use super::*;
    use tunneld_config::model::Agent;
    use tunneld_config::{Env, Loader, ad_hoc};

    #[tokio::test]
    async fn only_files_that_can_be_the_cause_count() {
        let dir = tempfile::tempdir().unwrap();
        let [key, known, agent] = ["key", "known_hosts", "agent"].map(|name| dir.path().join(name));
        let loader = Loader::new(
            "/none".into(),
            Env::for_tests("/none"),
            std::sync::Arc::new(tunneld_platform::subprocess::TokioPrograms),
        );
        let keys = serde_json::json!({ "host": "h", "ssh_config": false });
        let mut route = ad_hoc("t", &keys, &loader).await.unwrap().route;
        route.auth.identity_files = vec![key.clone()];
        route.auth.agent = Agent::Socket(agent.clone());
        route.host_keys.user_files = vec![known.clone()];
        for (changed, cures_a_login) in [(known, false), (key, true), (agent, true)] {
            let login = FileSnapshot::new(&route, Recovery::RetrySlowly);
            let any = FileSnapshot::new(&route, Recovery::NeedsUser);
            assert!(!login.has_changed() && !any.has_changed());
            std::fs::write(&changed, "new").unwrap();
            assert_eq!(login.has_changed(), cures_a_login, "{changed:?}");
            assert!(any.has_changed(), "{changed:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_changed_mode_is_a_change() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "key").unwrap();
        let set_mode = |mode| {
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set_mode(0o644);
        let snapshot = FileSnapshot(vec![(key.clone(), stamp(&key))]);
        assert!(!snapshot.has_changed());
        set_mode(0o600);
        assert!(snapshot.has_changed());
    }
}
