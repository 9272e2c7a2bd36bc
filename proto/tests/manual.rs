//! Checks that docs/protocol.md names every method, kind, state and key.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::failure::FailureKind;

const MANUAL: &str = include_str!("../../docs/protocol.md");

/// Returns whether the manual has `word` as code.
fn names(word: &str) -> bool {
    MANUAL.contains(&format!("`{word}`"))
}

/// Returns the string literals that follow `mark` in a source file.
fn quoted<'a>(source: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    source.lines().filter_map(move |line| {
        let (_, rest) = line.split_once(mark)?;
        rest.strip_prefix('"')?.split('"').next()
    })
}

#[test]
fn every_method_and_notification_has_a_row() {
    let methods: Vec<&str> = quoted(include_str!("../src/message.rs"), ": &str = ").collect();
    assert!(methods.len() > 20, "{methods:?}");
    for method in methods {
        assert!(MANUAL.contains(&format!("\n| `{method}` |")), "{method}");
    }
}

#[test]
fn every_kind_of_error_has_a_row_with_its_code() {
    // Other literals are attributes of macros.
    let is_kind = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let mut kinds: Vec<&str> = quoted(include_str!("../src/error.rs"), " = ").collect();
    kinds.retain(|kind| is_kind(kind));
    assert!(kinds.contains(&"internal") && kinds.len() > 17, "{kinds:?}");
    for kind in kinds {
        let code = RpcError::new(ErrorKind::from(kind.to_owned()), "").code;
        assert!(
            MANUAL.contains(&format!("\n| `{kind}` | {code} |")),
            "{kind}"
        );
    }
}

#[test]
fn every_kind_of_failure_has_a_row_that_says_whether_it_ends_a_wait() {
    for kind in FailureKind::ALL {
        let ends = if kind.ends_wait() { "yes" } else { "no" };
        assert!(
            MANUAL.contains(&format!("\n| `{kind}` | {ends} |")),
            "{kind}"
        );
    }
}

#[test]
fn every_state_phase_and_kind_is_named() {
    let words: Vec<&str> = quoted(include_str!("../src/status.rs"), " => ").collect();
    assert!(
        words.contains(&"needs_input") && words.len() > 25,
        "{words:?}"
    );
    for word in words.iter().filter(|word| **word != "unknown") {
        assert!(names(word), "{word}");
    }
}

/// The golden files hold every message.
#[test]
fn every_key_of_every_message_is_named() {
    let mut keys = BTreeSet::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for entry in std::fs::read_dir(golden).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        collect(&serde_json::from_str(&text).unwrap(), &mut keys);
    }
    assert!(keys.contains("bytes_in") && keys.len() > 80, "{keys:?}");
    for key in &keys {
        assert!(
            names(key) || MANUAL.contains(&format!("\"{key}\"")),
            "{key}"
        );
    }
}

fn collect(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.insert(key.clone());
                // The keys of `spec` are documented in docs/configuration.md.
                if key != "spec" {
                    collect(value, keys);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}
