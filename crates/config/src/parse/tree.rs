//! A configuration as it was written: one tree for TOML with its places and for JSON, nothing proved yet.

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Span};

/// A value, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it stands; nowhere in JSON.
    pub at: Option<Span>,
}

/// TOML's and JSON's kinds of value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// An integer beyond 64 bits, a float, a date, or null: kinds that no key takes, as they were written.
    Other(&'static str),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Node>),
    /// A table, in the order it was written.
    Table(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub at: Option<Span>,
    /// The value.
    pub node: Node,
}

impl Value {
    /// The kind, with its article, for error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Other(kind) => kind,
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Reads TOML, through every mistake that it can be read through.
pub fn from_toml(file: usize, text: &str) -> (Node, Vec<Diagnostic>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let problems = errors
        .iter()
        .map(|error| {
            let at = error.span().map(|range| Span {
                file,
                start: range.start,
                end: range.end,
            });
            Diagnostic::new(at, error.message().replace('\n', ", "))
        })
        .collect();
    let at = span(file, document.span());
    let node = Node {
        value: Value::Table(entries(file, document.into_inner())),
        at,
    };
    (node, problems)
}

fn span(file: usize, range: std::ops::Range<usize>) -> Option<Span> {
    Some(Span {
        file,
        start: range.start,
        end: range.end,
    })
}

fn entries(file: usize, table: DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            at: span(file, key.span()),
            key: key.into_inner().into_owned(),
            node: Node {
                at: span(file, value.span()),
                value: toml_value(file, value.into_inner()),
            },
        })
        .collect();
    entries.sort_by_key(|entry| entry.at);
    entries
}

fn toml_value(file: usize, value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            i64::from_str_radix(digits, number.radix())
                .map_or(Value::Other("an integer beyond 64 bits"), Value::Integer)
        }
        DeValue::Float(_) => Value::Other("a float"),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(array) => Value::Array(
            array
                .into_iter()
                .map(|value| Node {
                    at: span(file, value.span()),
                    value: toml_value(file, value.into_inner()),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(entries(file, table)),
    }
}

/// Takes JSON over.
pub fn from_json(value: &serde_json::Value) -> Node {
    use serde_json::Value as Json;
    let value = match value {
        Json::Null => Value::Other("null"),
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None if number.is_u64() => Value::Other("an integer beyond 64 bits"),
            None => Value::Other("a float"),
        },
        Json::String(text) => Value::String(text.clone()),
        Json::Array(values) => Value::Array(values.iter().map(from_json).collect()),
        Json::Object(map) => Value::Table(
            map.iter()
                .map(|(key, value)| Entry {
                    key: key.clone(),
                    at: None,
                    node: from_json(value),
                })
                .collect(),
        ),
    };
    Node { value, at: None }
}
