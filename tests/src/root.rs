//! The check for root, in one place, so that a skipped test is never mistaken for a passed one.

use anyhow::{Result, bail};

/// If this environment variable is `1`, tests that need root print SKIPPED and pass.
pub const WITHOUT_ROOT: &str = "TUNNELD_TESTS_WITHOUT_ROOT";

/// Returns whether the test may go on: true for root, false if the user has chosen to skip such tests.
/// `purpose` completes the sentence "this test needs root to …".
///
/// # Errors
/// If the user is not root and has not set [`WITHOUT_ROOT`].
pub fn available(purpose: &str) -> Result<bool> {
    available_if(true, purpose)
}

/// Same as [`available`], for a test that needs `condition` of the machine as well.
///
/// # Errors
/// If root or `condition` is missing and the user has not set [`WITHOUT_ROOT`].
pub fn available_if(condition: bool, purpose: &str) -> Result<bool> {
    if condition && rustix::process::geteuid().is_root() {
        return Ok(true);
    }
    if std::env::var_os(WITHOUT_ROOT).is_some_and(|value| value == "1") {
        eprintln!("SKIPPED: this test needs root to {purpose}");
        return Ok(false);
    }
    bail!("this test needs root to {purpose}; run it as root, or set {WITHOUT_ROOT}=1 to skip it")
}
