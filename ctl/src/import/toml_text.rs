//! Writes an import as TOML: a table per tunnel, comments for what could not be carried over.

use serde_json::Value;
use tunneld_proto::text::escape;
use tunneld_toml::save::value;

use super::{Import, ImportedTunnel};

/// Returns the whole import as TOML.
pub(crate) fn render(import: &Import) -> String {
    let mut text = String::new();
    comments(&mut text, &import.notes);
    for tunnel in &import.tunnels {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&block(tunnel));
    }
    text
}

/// Returns the text of one tunnel: comments, the header, the keys, and the keys that are written as comments.
pub(crate) fn block(tunnel: &ImportedTunnel) -> String {
    let mut text = String::new();
    comments(&mut text, &tunnel.notes);
    // A dot in a bare key would be a table in a table.
    let bare = !tunnel.name.contains('.');
    let quote = if bare { "" } else { "\"" };
    text.push_str(&format!("[tunnel.{quote}{}{quote}]\n", tunnel.name));
    // The destination first, as people write it.
    let first = |key: &str| !matches!(key, "host" | "host_name" | "user" | "port");
    let mut keys: Vec<_> = tunnel.keys.iter().collect();
    keys.sort_by_key(|(key, _)| first(key));
    for (key, value) in keys {
        text.push_str(&format!("{key} = {}\n", toml(value)));
    }
    if let Some(why) = tunnel.incomplete {
        text.push_str(&format!("autostart = false # {why}, then remove this\n"));
    }
    for (key, value) in &tunnel.disabled {
        text.push_str(&format!("# {key} = {}\n", line(value)));
    }
    text
}

/// A value in one line, a longer list with one line for each item.
fn toml(json: &Value) -> String {
    match json {
        Value::Array(items) if items.len() > 3 => {
            let lines: String = items
                .iter()
                .map(|item| format!("    {},\n", line(item)))
                .collect();
            format!("[\n{lines}]")
        }
        json => line(json),
    }
}

/// A value in one line. No text in it has a line break: `ImportedTunnel` refuses it.
fn line(json: &Value) -> String {
    value(json).map_or_else(
        |_| "\"\"".to_owned(),
        |value| value.to_string().trim().to_owned(),
    )
}

fn comments(text: &mut String, notes: &[String]) {
    for note in notes {
        text.push_str("# ");
        text.push_str(&escape(note));
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_comments_keys_and_disabled_keys() {
        let mut tunnel = ImportedTunnel::new("a.b");
        tunnel.note("one\nline \u{1b}[31m");
        tunnel.set("host", "h\"\\");
        tunnel.set("proxy_for", json!(["a", "b", "c", "d"]));
        tunnel.disable("subnets", json!(["a", "b", "c", "d"]));
        tunnel.set("proxy_command", "x");
        let text = block(&tunnel);
        assert!(text.starts_with("# one\\nline \\u{1b}[31m\n"), "{text}");
        assert!(
            text.ends_with("# proxy_command = \"x\"\n# subnets = [\"a\", \"b\", \"c\", \"d\"]\n"),
            "{text}"
        );
        let document: toml_edit::DocumentMut = text.parse().unwrap();
        let table = &document["tunnel"]["a.b"];
        assert_eq!(table["host"].as_str(), Some("h\"\\"));
        assert_eq!(
            table["proxy_for"].as_array().map(toml_edit::Array::len),
            Some(4)
        );
    }
}
