//! Edits the keys of one tunnel in a TOML document; everything else keeps its layout.

use serde_json::Value as Json;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value};

/// Sets the keys in `[tunnel.NAME]`, which is added at the end of the file if it has none.
pub(super) fn edit(
    document: &mut DocumentMut,
    name: &str,
    keys: &serde_json::Map<String, Json>,
    added: &[&str],
) -> Result<(), String> {
    let table = table(document, name)?;
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
        if added.contains(&key.as_str())
            && let Some(old) = table.get(key).and_then(Item::as_value)
        {
            match joined(old, value) {
                Some(both) => value = both,
                None => continue,
            }
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

/// Returns the table of the tunnel, which is added at the end of the file if it has none.
fn table<'a>(document: &'a mut DocumentMut, name: &str) -> Result<&'a mut dyn TableLike, String> {
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
    tunnels
        .get_mut(name)
        .and_then(Item::as_table_like_mut)
        .ok_or_else(|| format!("its `tunnel.{name}` is not a table"))
}

/// Returns a list of the values in `old`, with its layout and comments, and those of `new` that it does not have; `None`
/// if it has them all. Both may be single values.
fn joined(old: &Value, new: Value) -> Option<Value> {
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
    let before = list.len();
    for value in added {
        if !list.iter().any(|known| text(known) == text(&value)) {
            list.push(value);
        }
    }
    (list.len() > before).then_some(Value::Array(list))
}

/// Converts JSON to a TOML value.
///
/// # Errors
/// TOML has no such value.
pub fn value(json: &Json) -> Result<Value, String> {
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
