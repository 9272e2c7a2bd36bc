//! Headless Chromium, as a browser of a user: never as root, because its sandbox does not work there and `--no-sandbox`
//! is not what people run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::process::{run_tool, write_script};
use crate::unprivileged::{NOBODY, as_ordinary_user};

/// Writes a program named `chromium` to `folder`. It runs the real one without a screen, prints the page as HTML when it
/// has loaded, and ends. Its arguments are passed on.
///
/// # Errors
/// If it cannot be written.
pub fn write_program(folder: &Path) -> Result<PathBuf> {
    write_script_for(folder, "--timeout=20000 --dump-dom \"$@\" 2>/dev/null")
}

/// Writes the program; `arguments` are what a shell reads behind the usual ones.
fn write_script_for(folder: &Path, arguments: &str) -> Result<PathBuf> {
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
         --disable-background-networking {arguments}"
    );
    write_script(&program, &script)?;
    Ok(program)
}

/// Opens a page in Chromium with this proxy, answers its question for the proxy's login, and returns what was asked (the
/// realm) and the text of the page. Chromium is asked by its DevTools protocol.
///
/// # Errors
/// If Chromium does not start or the page does not load.
pub async fn text_with_login(
    proxy: &str,
    login: (&str, &str),
    url: &str,
) -> Result<(String, String)> {
    let folder = tempfile::Builder::new().prefix("lab-chromium").tempdir()?;
    rustix::fs::chmod(folder.path(), 0o755.into())?;
    let profile = folder.path().join("profile");
    std::fs::create_dir(&profile)?;
    let program = write_script_for(folder.path(), "--remote-debugging-port=0 \"$@\"")?;
    let script = folder.path().join("login.py");
    std::fs::write(&script, include_str!("chromium_login.py"))?;
    let script = script.display().to_string();
    let (program, profile) = (program.display().to_string(), profile.display().to_string());
    let args = [
        script.as_str(),
        &program,
        &profile,
        proxy,
        login.0,
        login.1,
        url,
    ];
    let printed = run_tool("/usr/bin/python3", &args).await?;
    let (realm, text) = printed.trim_end().split_once('\n').context("two lines")?;
    Ok((realm.to_owned(), text.to_owned()))
}
