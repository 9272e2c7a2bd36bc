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

/// Modification time and size in bytes.
type Stamp = (SystemTime, u64);

impl FileSnapshot {
    /// Records the files of `route` whose change can cure a failure with this recovery.
    pub fn new(route: &Route, recovery: Recovery) -> Self {
        let auth = &route.auth;
        let mut files: Vec<PathBuf> = auth.identity_files.clone();
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
    Some((meta.modified().ok()?, meta.len()))
}

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
}
