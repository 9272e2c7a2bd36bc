//! A FIFO for tests, created by the system's own program: not every system's library call is wrapped.

use std::path::Path;

/// Makes one that its owner alone may use.
pub fn make_fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(path)
        .status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
}
