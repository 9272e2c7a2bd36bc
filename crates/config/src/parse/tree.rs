//! A configuration as it is written, nothing checked yet: one tree for TOML, whose values have spans, and for JSON.

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Span};

/// A value and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value, with its children.
    pub value: Value,
    /// Where it is written; `None` in JSON.
    pub span: Option<Span>,
}

/// The types of values that TOML and JSON have.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The literal `true` or `false`.
    Bool(bool),
    /// An integer of 64 bits, in any of TOML's four notations.
    Integer(i64),
    /// A type that no key accepts (a larger integer, a float, a date, null), as its name with an article.
    Other(&'static str),
    /// A string with its escapes resolved, in any of TOML's four notations.
    String(String),
    /// An array, whose items may differ in type.
    Array(Vec<Node>),
    /// A table, in the order it is written.
    Table(Vec<TableEntry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct TableEntry {
    /// The key without quotes and without the names of the tables around it.
    pub key: String,
    /// Where the key is written; `None` in JSON.
    pub span: Option<Span>,
    /// The value of the key.
    pub node: Node,
}

impl Value {
    /// The name of the type with an article, for error messages.
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

/// Parses TOML. After a syntax error it continues where it can, so that one load reports all errors of a file.
pub fn from_toml(file: usize, text: &str) -> (Node, Vec<Diagnostic>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let diagnostics = errors
        .iter()
        .map(|error| {
            let span = error.span().map(|range| Span {
                file,
                start: range.start,
                end: range.end,
            });
            Diagnostic::new(span, error.message().replace('\n', ", "))
        })
        .collect();
    let span = span(file, document.span());
    let node = Node {
        value: Value::Table(entries(file, document.into_inner())),
        span,
    };
    (node, diagnostics)
}

fn span(file: usize, range: std::ops::Range<usize>) -> Option<Span> {
    Some(Span {
        file,
        start: range.start,
        end: range.end,
    })
}

fn entries(file: usize, table: DeTable<'_>) -> Vec<TableEntry> {
    let mut entries: Vec<TableEntry> = table
        .into_iter()
        .map(|(key, value)| TableEntry {
            span: span(file, key.span()),
            key: key.into_inner().into_owned(),
            node: Node {
                span: span(file, value.span()),
                value: toml_value(file, value.into_inner()),
            },
        })
        .collect();
    // The TOML crate sorts by key; messages and tunnels follow the file.
    entries.sort_by_key(|entry| entry.span);
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
                    span: span(file, value.span()),
                    value: toml_value(file, value.into_inner()),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(entries(file, table)),
    }
}

/// Converts JSON, which has no spans.
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
                .map(|(key, value)| TableEntry {
                    key: key.clone(),
                    span: None,
                    node: from_json(value),
                })
                .collect(),
        ),
    };
    Node { value, span: None }
}
