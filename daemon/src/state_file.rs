//! What outlives a restart or a crash of the daemon, but not a reboot: the state that the user asked for with `up` and
//! `down`, and the tunnels made on the command line. The file lies beside the control socket.
//!
//! Writers: the supervisor alone writes the desired states; the control socket adds ad-hoc tunnels and the supervisor
//! removes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tunneld_proto::status::Desired;

use tunneld_platform::fs;
use tunneld_platform::process::boot_id;

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// The boot in which the file was written. `None` where the system has no boot id.
    #[serde(default)]
    boot_id: Option<String>,
    #[serde(default)]
    desired: BTreeMap<String, Desired>,
    /// The tunnels made on the command line: name to the keys of `[tunnel.NAME]`.
    #[serde(default, rename = "made")]
    ad_hoc: BTreeMap<String, Value>,
}

/// The file and its content in memory.
pub struct StateFile {
    path: PathBuf,
    // Not a tokio mutex: held for one change and the write of a small file, never across an await. The write happens
    // under it, so that the file never gets an older state than memory.
    state: Mutex<State>,
}

impl StateFile {
    /// Reads the file that an earlier daemon left. A file that is missing, broken or written before the last boot
    /// counts as empty.
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

    /// What the user last asked of this tunnel. `None` if no command named it.
    pub fn desired(&self, name: &str) -> Option<Desired> {
        self.state.lock().desired.get(name).copied()
    }

    /// The tunnels made on the command line: name to the keys of `[tunnel.NAME]`.
    pub fn ad_hoc(&self) -> BTreeMap<String, Value> {
        self.state.lock().ad_hoc.clone()
    }

    /// Whether this tunnel was made on the command line.
    pub fn is_ad_hoc(&self, name: &str) -> bool {
        self.state.lock().ad_hoc.contains_key(name)
    }

    /// Records what the user asked of these tunnels.
    pub fn set_desired(&self, names: &[String], desired: Desired) {
        self.change(|state| {
            for name in names {
                state.desired.insert(name.clone(), desired);
            }
        });
    }

    /// Records a tunnel made on the command line. `keys` are those of `[tunnel.NAME]`.
    pub fn insert_ad_hoc(&self, name: &str, keys: Value) {
        self.change(|state| drop(state.ad_hoc.insert(name.to_owned(), keys)));
    }

    /// Removes a tunnel from those made on the command line, because the configuration has it now. Its desired state
    /// stays.
    pub fn remove_ad_hoc(&self, name: &str) {
        self.change(|state| drop(state.ad_hoc.remove(name)));
    }

    /// Removes everything about a tunnel that the user removed.
    pub fn forget(&self, name: &str) {
        self.change(|state| {
            state.ad_hoc.remove(name);
            state.desired.remove(name);
        });
    }

    /// Removes the desired states of tunnels that are neither `configured` nor made on the command line.
    pub fn retain_desired(&self, configured: &[&str]) {
        self.change(|state| {
            let State {
                desired, ad_hoc, ..
            } = state;
            desired
                .retain(|name, _| configured.contains(&name.as_str()) || ad_hoc.contains_key(name));
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        let before = state.clone();
        change(&mut state);
        if *state == before {
            return;
        }
        if let Err(error) = write(&self.path, &state) {
            tracing::warn!(
                "cannot write {}: {error}; after a restart the daemon will not know the last `up` and `down` commands",
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
        tracing::warn!("{} is broken and is ignored: {error}", path.display());
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
    fn a_restart_finds_the_desired_states_and_the_ad_hoc_tunnels() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.json");
        let state = StateFile::open(file.clone());
        state.set_desired(&["db".into(), "web".into()], Desired::Down);
        state.set_desired(&["web".into()], Desired::Up);
        state.insert_ad_hoc("quick", serde_json::json!({"host": "h"}));
        state.insert_ad_hoc("gone", serde_json::json!({}));
        state.forget("gone");
        state.set_desired(&["removed".into()], Desired::Up);
        state.set_desired(&["quick".into()], Desired::Down);
        state.retain_desired(&["db", "web"]);
        let reopened = StateFile::open(file.clone());
        assert_eq!(reopened.desired("db"), Some(Desired::Down));
        assert_eq!(reopened.desired("web"), Some(Desired::Up));
        assert_eq!(reopened.desired("quick"), Some(Desired::Down));
        assert_eq!(reopened.desired("removed"), None);
        assert!(reopened.is_ad_hoc("quick") && !reopened.is_ad_hoc("gone"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_file_from_before_a_reboot_or_a_broken_file_counts_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.json");
        std::fs::write(&file, r#"{"boot_id":"another","desired":{"db":"down"}}"#).unwrap();
        assert_eq!(StateFile::open(file.clone()).desired("db"), None);
        std::fs::write(&file, r#"{"desired":"#).unwrap();
        assert!(
            StateFile::open(file.clone())
                .state
                .lock()
                .desired
                .is_empty()
        );
    }
}
