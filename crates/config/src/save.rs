//! Writes a tunnel into the configuration: into the file that defines it, whose comments stay, or into NAME.toml.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value};
use tunneld_platform::fs;
use tunneld_proto::message::ConfigFault;

use crate::diagnostic::file_fault;
use crate::parse::destination::check_name;
use crate::parse::file;

/// A file that was written, and its content before.
#[derive(Debug)]
pub struct Saved {
    /// The path of the file.
    pub path: PathBuf,
    // `None` if the file did not exist.
    before: Option<String>,
}

impl Saved {
    /// Restores the file as it was before, or removes it. Blocks.
    ///
    /// # Errors
    /// The file cannot be written or removed.
    pub fn undo(self) -> std::io::Result<()> {
        match self.before {
            Some(text) => fs::replace(&self.path, text.as_bytes()),
            None => std::fs::remove_file(&self.path),
        }
    }
}

/// Keys of which a tunnel has several values: saving adds to them and removes none.
pub const ADDED_KEYS: [&str; 6] = [
    "local_forward",
    "remote_forward",
    "dynamic_forward",
    "dns_listen",
    "identity_file",
    "certificate_file",
];

/// Saves the keys of `[tunnel.NAME]`, given as a JSON object. Keys that only the file has stay as they are, and values are
/// added to those of [`ADDED_KEYS`]. Blocks.
///
/// # Errors
/// The folder or the file cannot be read or written, or is not TOML, or a new file of the name would not be read; then
/// nothing is changed.
pub fn save(dir: &Path, name: &str, keys: &Json) -> Result<Saved, ConfigFault> {
    let fault = |path: &Path, message: String, help: &str| {
        file_fault(&path.display().to_string(), &message, help)
    };
    const FIX_FIRST: &str = "fix the file first; `tunnelctl check` shows where";
    check_name(name).map_err(|error| fault(dir, error, "choose another name"))?;
    let Json::Object(keys) = keys else {
        return Err(fault(
            dir,
            "the tunnel's keys are missing".to_owned(),
            "this is a bug in tunneld: please report it",
        ));
    };
    fs::create_private_dir(dir).map_err(|error| {
        fault(
            dir,
            format!("cannot be created: {error}"),
            "create the folder, or choose another one with --config-dir",
        )
    })?;
    // The text, not the loader's last good state: comments and order must stay.
    let path = match defining_file(dir, name) {
        Some(path) => path,
        None => {
            new_file(dir, name).map_err(|error| fault(dir, error, "choose another name: --name"))?
        }
    };
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(fault(
                &path,
                format!("cannot be read: {error}"),
                &format!("run: chmod u+r {}", path.display()),
            ));
        }
    };
    let text = before.as_deref().unwrap_or_default();
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        fault(
            &path,
            format!("is not valid TOML: {}", error.message()),
            FIX_FIRST,
        )
    })?;
    edit(&mut document, name, keys).map_err(|error| fault(&path, error, FIX_FIRST))?;
    fs::replace(&path, document.to_string().as_bytes()).map_err(|error| {
        fault(
            &path,
            format!("cannot be written: {error}"),
            "check the mode of the folder and the free space of the disk",
        )
    })?;
    Ok(Saved { path, before })
}

/// Returns the path of the file for a new tunnel.
///
/// # Errors
/// The file would never be read, or could be another file or a device on a system that ignores case (macOS, Windows):
/// configurations are shared between machines.
fn new_file(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let path = dir.join(format!("{name}.toml"));
    if !crate::scan::is_config(&path) {
        return Err(format!(
            "a tunnel cannot be saved as \"{name}\": files named {name}.toml are not read"
        ));
    }
    if is_device(name) {
        return Err(format!(
            "a tunnel cannot be saved as \"{name}\": Windows reserves the file name"
        ));
    }
    let file = format!("{name}.toml");
    let entries = std::fs::read_dir(dir).ok().into_iter().flatten();
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    match names.find(|other| other.eq_ignore_ascii_case(&file) && *other != file) {
        Some(other) => Err(format!(
            "a tunnel cannot be saved as \"{name}\": the folder has {other}, which differs only in case"
        )),
        None => Ok(path),
    }
}

/// Whether Windows takes the file name for a device, with any extension (Naming Files, Paths, and Namespaces).
fn is_device(name: &str) -> bool {
    let stem = name
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix)
            .is_some_and(|rest| matches!(rest.as_bytes(), [b'1'..=b'9']))
    };
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

/// The first file that defines the tunnel; `None` if none does. Files that are too large or not TOML are skipped.
fn defining_file(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| crate::scan::is_config(path))
        .collect();
    paths.sort();
    paths.into_iter().find(|path| {
        let small = path
            .metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= file::MAX_FILE_SIZE);
        let text = small.then(|| std::fs::read_to_string(path).ok()).flatten();
        let document = text.and_then(|text| text.parse::<DocumentMut>().ok());
        document.is_some_and(|document| {
            let tunnels = document.get("tunnel").and_then(Item::as_table_like);
            tunnels.is_some_and(|tunnels| tunnels.contains_key(name))
        })
    })
}

/// Sets the keys in `[tunnel.NAME]`, which is added at the end of the file if it has none.
fn edit(
    document: &mut DocumentMut,
    name: &str,
    keys: &serde_json::Map<String, Json>,
) -> Result<(), String> {
    let root = document.as_table_mut();
    if !root.contains_key("tunnel") {
        // Implicit: without a `[tunnel]` header of its own.
        let mut tunnels = Table::new();
        tunnels.set_implicit(true);
        root.insert("tunnel", Item::Table(tunnels));
    }
    let tunnels = root
        .get_mut("tunnel")
        .and_then(Item::as_table_like_mut)
        .ok_or("its `tunnel` is not a table")?;
    if !tunnels.contains_key(name) {
        tunnels.insert(name, Item::Table(Table::new()));
    }
    let table = tunnels
        .get_mut(name)
        .and_then(Item::as_table_like_mut)
        .ok_or_else(|| format!("its `tunnel.{name}` is not a table"))?;
    // A table cannot have both ways to reach the host: the new one replaces the other.
    for (one, other) in [
        ("proxy_jump", "proxy_command"),
        ("proxy_command", "proxy_jump"),
    ] {
        if keys.contains_key(one) && !keys.contains_key(other) {
            table.remove(other);
        }
    }
    for (key, json) in keys {
        let mut value = value(json)?;
        if ADDED_KEYS.contains(&key.as_str())
            && let Some(old) = table.get(key).and_then(Item::as_value)
        {
            value = joined(old, value);
        }
        match table.get_mut(key).and_then(Item::as_value_mut) {
            // Keeps the comment behind the value.
            Some(old) => {
                *value.decor_mut() = old.decor().clone();
                *old = value;
            }
            None => {
                table.insert(key, Item::Value(value));
            }
        }
    }
    Ok(())
}

/// Returns a list of the values in `old`, with its layout and comments, and those of `new` that it does not have. Both
/// may be single values.
fn joined(old: &Value, new: Value) -> Value {
    let mut list = match old {
        Value::Array(list) => list.clone(),
        single => Array::from_iter([single.clone().decorated("", "")]),
    };
    let added = match new {
        Value::Array(list) => list.into_iter().collect(),
        single => vec![single],
    };
    // Compared as text: numbers and strings mean the same here (`8157`, `"8157"`).
    let text = |value: &Value| {
        let text = value.as_str().map(str::to_owned);
        text.unwrap_or_else(|| value.to_string().trim().to_owned())
    };
    for value in added {
        if !list.iter().any(|known| text(known) == text(&value)) {
            list.push(value);
        }
    }
    Value::Array(list)
}

/// Converts JSON to a TOML value.
fn value(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => return Err("TOML has no null".to_owned()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => return Err(format!("TOML has no number {number}")),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => {
            let mut array = Array::new();
            for item in items {
                array.push(value(item)?);
            }
            Value::Array(array)
        }
        Json::Object(map) => {
            let mut table = InlineTable::new();
            for (key, item) in map {
                table.insert(key, value(item)?);
            }
            Value::InlineTable(table)
        }
    })
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_new_tunnel_gets_its_own_file() {
        let home = tempfile::TempDir::new().unwrap();
        let dir = home.path().join("a/tunneld");
        let saved = save(
            &dir,
            "db",
            &json!({"host": "h", "local_forward": ["1 a:1", "2 b:2"]}),
        )
        .unwrap();
        let path = saved.path.clone();
        assert_eq!(path, dir.join("db.toml"));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "[tunnel.db]\nhost = \"h\"\nlocal_forward = [\"1 a:1\", \"2 b:2\"]\n"
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        saved.undo().unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn the_file_that_defines_it_keeps_its_comments_mode_and_link() {
        let dir = tempfile::TempDir::new().unwrap();
        let real = dir.path().join("real");
        let text = "# mine\n[tunnel.a]\nport = 1 # old\n\n[tunnel.db] # the db\n# its host\nhost = \"old\" # why\nproxy_command = \"x\"\nhold = 5\n";
        fs::write(&real, text).unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("work.toml")).unwrap();
        let saved = save(dir.path(), "db", &json!({"host": "new", "proxy_jump": "j"})).unwrap();
        let path = saved.path.clone();
        assert_eq!(path, dir.path().join("work.toml"));
        assert!(path.is_symlink());
        assert_eq!(
            fs::read_to_string(&real).unwrap(),
            "# mine\n[tunnel.a]\nport = 1 # old\n\n[tunnel.db] # the db\n# its host\nhost = \"new\" # why\nhold = 5\nproxy_jump = \"j\"\n"
        );
        assert_eq!(
            fs::metadata(&real).unwrap().permissions().mode() & 0o777,
            0o640
        );
        saved.undo().unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), text);
        assert!(path.is_symlink());
    }

    #[test]
    fn a_file_that_is_not_toml_is_not_changed() {
        let dir = tempfile::TempDir::new().unwrap();
        fs::write(dir.path().join("db.toml"), "[tunnel.db\n").unwrap();
        let fault = save(dir.path(), "db", &json!({"host": "h"})).unwrap_err();
        assert!(fault.message.contains("is not valid TOML"), "{fault:?}");
        assert_eq!(
            fs::read_to_string(dir.path().join("db.toml")).unwrap(),
            "[tunnel.db\n"
        );
        assert!(save(dir.path(), "../x", &json!({})).is_err());
    }
}
