//! A FIFO for tests, made by the system's own program: not every system's library call is wrapped.

use std::path::Path;

/// Makes one that its owner alone may use.
pub(crate) fn make(path: &Path) {
    let made = std::process::Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(path)
        .status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
}
