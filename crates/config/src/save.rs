//! Saves a tunnel, and reports what prevents it as a fault of the configuration.

use std::path::Path;

use serde_json::Value;
use tunneld_proto::message::ConfigFault;
pub use tunneld_toml::save::{ADDED_KEYS, Saved};

use crate::diagnostic::file_fault;

/// Saves the keys of `[tunnel.NAME]`, given as a JSON object, as [`tunneld_toml::save::save`] does. Blocks.
///
/// # Errors
/// The folder or the file cannot be read or written, or is not TOML, or a new file of the name would not be read; then
/// nothing is changed.
pub fn save(dir: &Path, name: &str, keys: &Value) -> Result<Saved, ConfigFault> {
    tunneld_toml::save::save(dir, name, keys).map_err(|error| {
        file_fault(
            &error.path.display().to_string(),
            &error.message,
            &error.help,
        )
    })
}
