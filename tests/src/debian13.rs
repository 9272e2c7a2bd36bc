//! The root folder of a Debian 13 with its own OpenSSH 10, which `tests/run` makes with debootstrap and keeps beside the
//! built programs. Servers run in it with chroot, so that newer servers than the machine's are tested.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The command prefix that runs a command in the root folder. The folder for temporary files is the machine's. Root is
/// required.
///
/// # Errors
/// If there is no complete root folder.
pub fn command_prefix() -> Result<Vec<String>> {
    let mut words = ["unshare", "--mount", "sh", "-c", ENTER, "sh"]
        .map(str::to_owned)
        .to_vec();
    for path in [root()?, std::env::temp_dir()] {
        words.push(
            path.to_str()
                .context("a path that is not UTF-8")?
                .to_owned(),
        );
    }
    Ok(words)
}

/// `sh -c ENTER sh ROOT TEMPORARY COMMAND…`. The mounts are those of a mount namespace and vanish with it. The root folder is
/// mounted on itself, so that a command in it can make a mount namespace too.
const ENTER: &str = "set -e; root=$1 dir=$2; shift 2; mount --bind \"$root\" \"$root\"; mkdir -p \"$root$dir\" \"$root/run/sshd\"; \
    mount --bind \"$dir\" \"$root$dir\"; mount --rbind /dev \"$root/dev\"; mount -t proc proc \"$root/proc\"; \
    exec chroot \"$root\" \"$@\"";

fn root() -> Result<PathBuf> {
    // The test itself is TARGET/PROFILE/deps/suite-HASH.
    let exe = std::env::current_exe()?;
    let target = exe.ancestors().nth(3).context("the test has no folder")?;
    let root = target.join("debian13");
    ensure!(
        root.join(".complete").exists(),
        "{} is missing; tests/run makes it",
        root.display()
    );
    Ok(root)
}
