//! The results of calls as JSON.

use serde_json::Value;
use tunneld_proto::error::{ErrorKind, RpcError};

/// Result of a method that has nothing to report: `{}`.
pub(super) fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Converts a result to JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(|error| {
        RpcError::new(
            ErrorKind::Internal,
            format!("the result cannot be converted to JSON: {error}"),
        )
    })
}
