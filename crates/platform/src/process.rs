//! Settings of the daemon's own process: no core dumps, private files, the highest file descriptor limit allowed.

#[cfg(feature = "runtime")]
use std::path::Path;

/// Protects the process that will hold keys. Called once, before the runtime starts and before any key is read.
///
/// Sets umask 077, forbids core dumps, makes the process undumpable (Linux: no ptrace by other processes of the
/// user either), and raises the soft limit of file descriptors to the hard one. Child processes get the old umask and
/// limits (`child_settings`).
///
/// # Errors
/// An error if `HOME` belongs to another user (`sudo tunneld`): one user's configuration, which names commands to run,
/// would run with another user's rights.
#[cfg(feature = "runtime")]
pub fn harden() -> anyhow::Result<()> {
    imp::harden();
    if let Some(home) = std::env::var_os("HOME") {
        imp::refuse_foreign_home(Path::new(&home))?;
    }
    Ok(())
}

#[cfg(all(unix, feature = "runtime"))]
mod imp {
    use super::Path;
    use crate::child_settings;
    use anyhow::bail;
    use rustix::process::Rlimit;
    use std::os::unix::fs::MetadataExt as _;

    pub(super) fn harden() {
        // The hard limit of core files stays, so that a child can have its own limit back. The daemon itself also writes
        // none because it is not dumpable.
        let no_core = |at_start: &Rlimit| Rlimit {
            current: Some(0),
            maximum: at_start.maximum,
        };
        let all_files = |at_start: &Rlimit| Rlimit {
            current: at_start.maximum,
            maximum: at_start.maximum,
        };
        child_settings::replace(0o077, no_core, all_files);
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{DumpableBehavior, set_dumpable_behavior};
            let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        }
    }

    pub(super) fn refuse_foreign_home(home: &Path) -> anyhow::Result<()> {
        let own_uid = rustix::process::geteuid().as_raw();
        let Ok(metadata) = std::fs::metadata(home) else {
            return Ok(());
        };
        // Service users often have a home that root owns, such as `/`.
        if metadata.uid() == own_uid || metadata.uid() == 0 {
            return Ok(());
        }
        let owner =
            std::env::var("SUDO_USER").unwrap_or_else(|_| format!("uid {}", metadata.uid()));
        bail!(
            "HOME is {}, which belongs to {}, but tunneld runs as uid {own_uid}\n  \
             hint: run tunneld as {} without sudo; it needs no rights beyond that user's files and keys",
            tunneld_proto::text::escape(&home.to_string_lossy()),
            tunneld_proto::text::escape(&owner),
            tunneld_proto::text::escape(&owner),
        );
    }
}

#[cfg(all(not(unix), feature = "runtime"))]
mod imp {
    use super::Path;

    pub(super) fn harden() {}

    pub(super) fn refuse_foreign_home(_: &Path) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Returns an identifier that changes with every boot of the system. `None` if the system has none (Windows, BSD).
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

/// Replaces standard error by `/dev/null` if it is a pipe. `tunnelctl up` reads the pipe for the error of a daemon that
/// cannot start; a daemon that runs must not keep its caller's pipe open.
#[cfg(unix)]
pub fn release_stderr() {
    let stderr = rustix::stdio::stderr();
    let is_pipe = rustix::fs::fstat(stderr)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo());
    if is_pipe && let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        // Fails only if a signal interrupts it; then the pipe stays, as before.
        let _ = rustix::stdio::dup2_stderr(null);
    }
}

/// Does nothing: only Unix daemons are started with a pipe.
#[cfg(not(unix))]
pub fn release_stderr() {}
