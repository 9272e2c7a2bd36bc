//! The process itself: nothing of it is dumped, its files are for the user alone, its limits are as high as allowed.

use std::path::Path;

/// Makes the process fit to hold keys; called once, before a runtime or a key exists.
///
/// # Errors
/// A home directory that belongs to somebody else (`sudo tunneld`): with it, one user's configuration would be run
/// with another's rights.
pub fn harden() -> anyhow::Result<()> {
    imp::harden();
    if let Some(home) = std::env::var_os("HOME") {
        imp::refuse_foreign_home(Path::new(&home))?;
    }
    Ok(())
}

#[cfg(unix)]
mod imp {
    use super::Path;
    use anyhow::bail;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
    use std::os::unix::fs::MetadataExt as _;

    pub(super) fn harden() {
        umask(rustix::fs::Mode::from_raw_mode(0o077));
        let no_core = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        // A refusal of any of these leaves what the system gave; the tunnels run all the same.
        let _ = setrlimit(Resource::Core, no_core);
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{DumpableBehavior, set_dumpable_behavior};
            let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        }
        let files = getrlimit(Resource::Nofile);
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: files.maximum,
                maximum: files.maximum,
            },
        );
    }

    pub(super) fn refuse_foreign_home(home: &Path) -> anyhow::Result<()> {
        let me = rustix::process::geteuid().as_raw();
        let Ok(found) = std::fs::metadata(home) else {
            return Ok(());
        };
        // Service users often have a home that root owns, such as `/`.
        if found.uid() == me || found.uid() == 0 {
            return Ok(());
        }
        let whose = std::env::var("SUDO_USER").unwrap_or_else(|_| format!("uid {}", found.uid()));
        bail!(
            "HOME is {}, which belongs to {}, and tunneld runs as uid {me}\n  \
             hint: run tunneld as {} without sudo; its own files and keys are all it needs",
            tunneld_proto::text::escape(&home.to_string_lossy()),
            tunneld_proto::text::escape(&whose),
            tunneld_proto::text::escape(&whose),
        );
    }
}

#[cfg(not(unix))]
mod imp {
    use super::Path;

    pub(super) fn harden() {}

    pub(super) fn refuse_foreign_home(_: &Path) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What tells one run of the machine from the next, where the system has it.
pub fn boot_id() -> Option<String> {
    let id = if cfg!(target_os = "macos") {
        let mut sysctl = std::process::Command::new("/usr/sbin/sysctl");
        let output = sysctl.args(["-n", "kern.bootsessionuuid"]).output().ok()?;
        String::from_utf8(output.stdout).ok()?
    } else {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?
    };
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}
