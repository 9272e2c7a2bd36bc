//! Location of the configuration directory, and errors of `tunneld-proto` with their hints as the user sees them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tunneld_proto::paths::{self, Env};

/// Returns the configuration directory: `explicit` if it is given, otherwise from the environment or the home
/// directory.
///
/// # Errors
/// An error with a hint if none of them names a directory.
pub fn config_dir(explicit: Option<&Path>) -> anyhow::Result<PathBuf> {
    paths::config_dir(explicit, &Env::from_process())
        .map_err(|error| with_hint(&error, error.hint()))
        .context("cannot determine the configuration directory")
}

/// Joins an error, its causes and its hint to one text.
pub(crate) fn with_hint(error: &dyn std::error::Error, hint: &str) -> anyhow::Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    anyhow::anyhow!("{text}\n  hint: {hint}")
}
