//! The umask and resource limits that child processes get: those that the daemon was started with.
//!
//! [`crate::process::harden`] changes both for the daemon. Its children are the user's own programs (ProxyCommand, hooks,
//! `password_command`): a file that they write must not be private by accident, and a program that uses select(2) must
//! not get a limit on descriptors that is too high for it.

use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// The settings of this process before it was hardened. Empty in a process that was not hardened: its children then
/// inherit everything as usual.
static AT_START: OnceLock<ChildSettings> = OnceLock::new();

#[derive(Debug, Clone, Copy)]
struct ChildSettings {
    umask: Mode,
    files: Rlimit,
    core: Rlimit,
}

/// Sets the umask and the limits of this process, and remembers what they were.
pub(crate) fn replace(
    new_umask: u32,
    core: impl FnOnce(&Rlimit) -> Rlimit,
    files: impl FnOnce(&Rlimit) -> Rlimit,
) {
    let at_start = ChildSettings {
        umask: umask(Mode::from_raw_mode(new_umask as _)),
        files: getrlimit(Resource::Nofile),
        core: getrlimit(Resource::Core),
    };
    // Results are ignored: if the system refuses one of these settings, tunnels still work with the old value.
    let _ = setrlimit(Resource::Core, core(&at_start.core));
    let _ = setrlimit(Resource::Nofile, files(&at_start.files));
    let _ = AT_START.set(at_start);
}

impl ChildSettings {
    /// Applies the settings in a child process. Uses system calls only, which is what is allowed between fork and exec.
    fn apply(self) {
        umask(self.umask);
        let _ = setrlimit(Resource::Nofile, self.files);
        let _ = setrlimit(Resource::Core, self.core);
    }
}

/// Gives the child that `command` starts the settings from before [`replace`].
#[expect(
    unsafe_code,
    reason = "a child's umask can be set only by the child itself, between fork and exec"
)]
pub(crate) fn restore_in_child(command: &mut tokio::process::Command) {
    if let Some(settings) = AT_START.get().copied() {
        // SAFETY: the closure runs after fork in a process with one thread. It calls umask(2) and setrlimit(2) alone,
        // which are async-signal-safe, allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                settings.apply();
                Ok(())
            });
        }
    }
}
