//! What `up` and `down` last said, and the tunnels made on the command line: kept in a file beside the control
//! socket, so that they outlive a restart or a crash of the daemon, and not a reboot of the machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tunneld_proto::status::Desired;

use tunneld_platform::fs;
use tunneld_platform::process::boot_id;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct State {
    #[serde(default)]
    boot_id: Option<String>,
    #[serde(default)]
    desired: BTreeMap<String, Desired>,
    /// Name to the keys of `[tunnel.NAME]`.
    #[serde(default)]
    made: BTreeMap<String, Value>,
}

/// The file and what stands in it.
pub struct StateFile {
    path: PathBuf,
    // Held for one change and the write of a small file, never across an await.
    state: Mutex<State>,
}

impl StateFile {
    /// Reads what an earlier daemon left in this file; a file that is broken or older than the machine's last
    /// start counts as none.
    pub fn open(path: PathBuf) -> Self {
        let boot_id = boot_id();
        let mut state = read(&path);
        if state.boot_id != boot_id {
            state = State {
                boot_id,
                ..State::default()
            };
        }
        Self {
            path,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `up` and `down` last said.
    pub fn desired(&self) -> BTreeMap<String, Desired> {
        self.state().desired.clone()
    }

    /// The tunnels made on the command line.
    pub fn ad_hoc(&self) -> BTreeMap<String, Value> {
        self.state().made.clone()
    }

    /// Whether this tunnel was made on the command line.
    pub fn is_ad_hoc(&self, name: &str) -> bool {
        self.state().made.contains_key(name)
    }

    /// Keeps what is wanted of these tunnels.
    pub fn set_desired(&self, names: &[String], desired: Desired) {
        self.change(|state| {
            for name in names {
                state.desired.insert(name.clone(), desired);
            }
        });
    }

    /// Keeps a tunnel that was made.
    pub fn insert_ad_hoc(&self, name: &str, spec: Value) {
        self.change(|state| drop(state.made.insert(name.to_owned(), spec)));
    }

    /// Forgets a tunnel that was removed.
    pub fn forget(&self, name: &str) {
        self.change(|state| {
            state.made.remove(name);
            state.desired.remove(name);
        });
    }

    /// Forgets what was wanted of tunnels that are neither configured, as these are, nor made.
    pub fn retain_desired(&self, configured: &[&str]) {
        self.change(|state| {
            let State { desired, made, .. } = state;
            desired
                .retain(|name, _| configured.contains(&name.as_str()) || made.contains_key(name));
        });
    }

    /// Forgets that a tunnel was made: it stands in the configuration by now.
    pub fn remove_ad_hoc(&self, name: &str) {
        self.change(|state| drop(state.made.remove(name)));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        let before = state.clone();
        change(&mut state);
        if *state == before {
            return;
        }
        if let Err(error) = write(&self.path, &state) {
            tracing::warn!(
                "cannot write {}: {error}; what `up` and `down` said will not outlive this daemon",
                self.path.display()
            );
        }
    }
}

fn read(path: &Path) -> State {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!("cannot read {}: {error}", path.display());
            }
            return State::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("{} is broken and is left unread: {error}", path.display());
        State::default()
    })
}

fn write(path: &Path, state: &State) -> std::io::Result<()> {
    fs::replace(path, &serde_json::to_vec(state)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_finds_what_was_wanted_and_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.json");
        let store = StateFile::open(file.clone());
        store.set_desired(&["db".into(), "web".into()], Desired::Down);
        store.set_desired(&["web".into()], Desired::Up);
        store.insert_ad_hoc("quick", serde_json::json!({"host": "h"}));
        store.insert_ad_hoc("gone", serde_json::json!({}));
        store.forget("gone");
        store.set_desired(&["removed".into()], Desired::Up);
        store.set_desired(&["quick".into()], Desired::Down);
        store.retain_desired(&["db", "web"]);
        let again = StateFile::open(file.clone());
        assert_eq!(again.desired()["db"], Desired::Down);
        assert_eq!(again.desired()["web"], Desired::Up);
        assert_eq!(again.desired()["quick"], Desired::Down);
        assert!(!again.desired().contains_key("removed"));
        assert!(again.is_ad_hoc("quick") && !again.is_ad_hoc("gone"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_reboot_or_a_broken_file_forgets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.json");
        std::fs::write(&file, r#"{"boot_id":"another","desired":{"db":"down"}}"#).unwrap();
        assert!(StateFile::open(file.clone()).desired().is_empty());
        std::fs::write(&file, r#"{"desired":"#).unwrap();
        assert!(StateFile::open(file.clone()).desired().is_empty());
    }
}
