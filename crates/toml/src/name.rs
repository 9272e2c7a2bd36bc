//! Names of tunnels and of the files that define them.

use std::path::Path;

use tunneld_proto::text::is_unsafe;

/// The largest configuration file that is read, in bytes.
pub const MAX_FILE_SIZE: u64 = 1 << 20;

/// Checks the name of a tunnel or a tag: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with `-`.
///
/// # Errors
/// Why it is refused.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 64 {
        return Err("a tunnel's name has 1 to 64 characters".into());
    }
    if name.starts_with('-') || name == "." || name == ".." {
        return Err(format!("a tunnel cannot be named \"{name}\""));
    }
    match name.chars().find(|c| !plain(*c)) {
        Some(c) => Err(format!(
            "a tunnel's name has letters, digits, `.`, `_` and `-`, not {}",
            describe(c)
        )),
        None => Ok(()),
    }
}

/// Returns a character for a message: its number if it cannot be shown.
fn describe(c: char) -> String {
    if c.is_whitespace() || is_unsafe(c) {
        format!("the character U+{:04X}", u32::from(c))
    } else {
        format!("`{c}`")
    }
}

/// Whether the file is read as configuration: `*.toml`, but no hidden files and no leftovers of editors.
pub fn is_config(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| {
        name.ends_with(".toml") && !name.starts_with(['.', '#', '~']) && !name.contains(".swp")
    })
}
