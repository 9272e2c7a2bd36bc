//! Helpers for the tests of this and other crates.

use std::path::Path;

/// Creates a FIFO with mode 0600. Runs mkfifo(1), because rustix offers mkfifo(3) on some systems only.
pub fn make_fifo(path: &Path) {
    let result = std::process::Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(path)
        .status();
    assert!(result.is_ok_and(|status| status.success()), "mkfifo failed");
}
