//! Headless Chromium, as a browser of a user: never as root, because its sandbox does not work there and `--no-sandbox`
//! is not what people run.

use std::path::Path;

use anyhow::Result;

use crate::process::{NOBODY, as_ordinary_user, write_script};

/// Writes a program named `chromium` to `folder`. It runs the real one without a screen, prints the page as HTML when it
/// has loaded, and ends. Its arguments are passed on.
///
/// # Errors
/// If it cannot be written.
pub fn write_program(folder: &Path) -> Result<std::path::PathBuf> {
    let program = folder.join("chromium");
    // The profile's folder belongs to the caller, so it is handed over.
    let hand_over = if rustix::process::geteuid().is_root() {
        format!(
            "for argument in \"$@\"; do case $argument in --user-data-dir=*) chown {NOBODY} \"${{argument#*=}}\" ;; esac; done"
        )
    } else {
        String::new()
    };
    let as_user = as_ordinary_user("/nonexistent");
    let script = format!(
        "{hand_over}\nexec {as_user} env -u DBUS_SESSION_BUS_ADDRESS /usr/bin/chromium --headless --disable-gpu --no-first-run \
         --disable-background-networking --timeout=20000 --dump-dom \"$@\" 2>/dev/null"
    );
    write_script(&program, &script)?;
    Ok(program)
}
