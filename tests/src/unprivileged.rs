//! Runs programs as an ordinary user if the tests run as root: browsers do not start as root, and the daemon that they
//! talk to must belong to the same user.

use std::path::Path;

use anyhow::Result;

use crate::process::run_tool;

/// The user and group id of `nobody`.
pub const NOBODY: u32 = 65534;

/// The command prefix that runs a command as the ordinary user; empty if the tests run as one already.
pub fn command_prefix() -> Vec<String> {
    if !rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    let (uid, gid) = (NOBODY.to_string(), NOBODY.to_string());
    let words = [
        "setpriv",
        "--reuid",
        &uid,
        "--regid",
        &gid,
        "--clear-groups",
    ];
    words.map(str::to_owned).to_vec()
}

/// Gives a folder and all in it to the ordinary user.
///
/// # Errors
/// If `chown` fails.
pub async fn hand_over(folder: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        let owner = format!("{NOBODY}:{NOBODY}");
        let folder = folder.display().to_string();
        run_tool("chown", &["-R", &owner, &folder]).await?;
    }
    Ok(())
}

/// The same prefix as words of a shell script, with `home` as the home of the command.
pub fn as_ordinary_user(home: &str) -> String {
    if rustix::process::geteuid().is_root() {
        format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups env HOME={home}")
    } else {
        String::new()
    }
}
