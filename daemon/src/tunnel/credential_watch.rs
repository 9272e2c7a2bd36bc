//! Whether somebody has mended what a tunnel stands still for: the files that its login and host keys rest on, and the
//! agent's socket.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::failure::Recovery;
use crate::session;
use tunneld_config::model::Route;

/// How often a tunnel that stands still looks.
pub const LOOK: Duration = Duration::from_secs(2);

/// The files as they were when the tunnel came to stand still.
#[derive(Debug)]
pub struct FileSnapshot(Vec<(PathBuf, Option<Stamp>)>);

type Stamp = (SystemTime, u64);

impl FileSnapshot {
    /// What on the way along `route` may be behind a failure of this verdict, as it is now. A refused login is not
    /// cured by other host keys, which change often.
    pub fn of(route: &Route, verdict: Recovery) -> Self {
        let auth = &route.auth;
        let mut files: Vec<PathBuf> = auth.identity_files.clone();
        files.extend_from_slice(&auth.certificate_files);
        files.extend(session::agent_socket(&auth.agent));
        if verdict == Recovery::NeedsUser {
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

    /// Whether any of it differs from what it was.
    pub fn have_changed(&self) -> bool {
        self.0.iter().any(|(file, before)| stamp(file) != *before)
    }
}

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
    async fn only_what_can_be_the_cause_counts() {
        let dir = tempfile::tempdir().unwrap();
        let [key, known, agent] = ["key", "known_hosts", "agent"].map(|name| dir.path().join(name));
        let loader = Loader::new(
            "/none".into(),
            Env::for_tests("/none"),
            std::sync::Arc::new(tunneld_platform::subprocess::TokioPrograms),
        );
        let spec = serde_json::json!({ "host": "h", "ssh_config": false });
        let mut route = ad_hoc("t", &spec, &loader).await.unwrap().route;
        route.auth.identity_files = vec![key.clone()];
        route.auth.agent = Agent::Socket(agent.clone());
        route.host_keys.user_files = vec![known.clone()];
        for (changed, mends_a_login) in [(known, false), (key, true), (agent, true)] {
            let login = FileSnapshot::of(&route, Recovery::RetrySlowly);
            let any = FileSnapshot::of(&route, Recovery::NeedsUser);
            assert!(!login.have_changed() && !any.have_changed());
            std::fs::write(&changed, "new").unwrap();
            assert_eq!(login.have_changed(), mends_a_login, "{changed:?}");
            assert!(any.have_changed(), "{changed:?}");
        }
    }
}
