//! Parses a line into a JSON-RPC 2.0 request, or into the error that is sent as its reply.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tunneld_proto::error::{ErrorKind, RpcError};

/// A valid request.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    /// `None` for a notification, which gets no reply.
    pub(super) id: Option<Value>,
    pub(super) method: String,
    pub(super) params: Value,
}

/// The id for the reply, null if it could not be read, and the error.
pub(super) type InvalidCall = (Value, RpcError);

/// Parses one line.
///
/// # Errors
/// The error to reply with: `parse_error` if the line is not JSON, `invalid_request` if it is not a request.
pub(super) fn parse(line: &[u8]) -> Result<Call, Box<InvalidCall>> {
    let error = |id, kind, message: String| {
        let hint = "send one JSON-RPC 2.0 request per line, for example \
                    {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"daemon.status\"}";
        Box::new((id, RpcError::new(kind, message).hint(hint)))
    };
    let value: Value = serde_json::from_slice(line).map_err(|cause| {
        let message = format!("the line is not JSON: {cause}");
        error(Value::Null, ErrorKind::ParseError, message)
    })?;
    let invalid = |id, message: &str| error(id, ErrorKind::InvalidRequest, message.to_owned());
    let Value::Object(mut object) = value else {
        return Err(invalid(Value::Null, "the request is not a JSON object"));
    };
    let id = object.remove("id");
    if !matches!(
        id,
        None | Some(Value::Null | Value::String(_) | Value::Number(_))
    ) {
        let message = "the request's id is neither a string nor a number";
        return Err(invalid(Value::Null, message));
    }
    let reply_id = || id.clone().unwrap_or_default();
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(invalid(
            reply_id(),
            "the request's `jsonrpc` is not \"2.0\"",
        ));
    }
    let Some(Value::String(method)) = object.remove("method") else {
        return Err(invalid(
            reply_id(),
            "the request's `method` is missing or not a string",
        ));
    };
    let params = object.remove("params").unwrap_or_default();
    if !matches!(params, Value::Null | Value::Object(_) | Value::Array(_)) {
        return Err(invalid(
            reply_id(),
            "the request's `params` are not an object",
        ));
    }
    Ok(Call { id, method, params })
}

/// Deserializes the parameters of `method`. Missing parameters count as an empty object.
///
/// # Errors
/// `invalid_params` if they do not have the form of `T`.
pub(super) fn params<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, RpcError> {
    let params = match params {
        Value::Null => Value::Object(serde_json::Map::new()),
        Value::Array(_) => {
            let message = format!("{method}: parameters must be an object, not an array");
            return Err(RpcError::new(ErrorKind::InvalidParams, message));
        }
        params => params,
    };
    serde_json::from_value(params).map_err(|error| {
        // serde's error repeats the value that it did not expect. For an answer that could be a password.
        let reason = match method {
            tunneld_proto::message::method::PROMPT_ANSWER => {
                "they must be {id, answers:[…]}".to_owned()
            }
            _ => tunneld_proto::text::escape(&error.to_string()),
        };
        let message = format!("{method}: the parameters are invalid: {reason}");
        RpcError::new(ErrorKind::InvalidParams, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &[u8]) -> (Value, ErrorKind) {
        let (id, error) = *parse(line).unwrap_err();
        (id, error.data.kind)
    }

    #[test]
    fn a_line_that_is_not_json_is_a_parse_error() {
        let deep = "[".repeat(100_000);
        let lines: &[&[u8]] = &[
            b"",
            b"nonsense",
            b"{\"id\":1",
            b"\xff\xfe",
            b"{\"a\":NaN}",
            b"{\"a\":1e999}",
            b"\"\\ud800\"",
            deep.as_bytes(),
        ];
        for line in lines {
            assert_eq!(kind(line), (Value::Null, ErrorKind::ParseError));
        }
    }

    #[test]
    fn json_that_is_not_a_request_is_invalid_and_keeps_its_id() {
        let cases: &[(&[u8], Value)] = &[
            (b"[]", Value::Null),
            (b"{\"id\":{}}", Value::Null),
            (b"{\"id\":5}", 5.into()),
            (
                b"{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":3}",
                "a".into(),
            ),
            (
                b"{\"jsonrpc\":\"2.0\",\"id\":6,\"method\":\"m\",\"params\":5}",
                6.into(),
            ),
        ];
        for (line, id) in cases {
            assert_eq!(kind(line), (id.clone(), ErrorKind::InvalidRequest));
        }
    }

    #[test]
    fn a_call_without_an_id_is_a_notification() {
        let line = br#"{"jsonrpc":"2.0","id":null,"method":"m","params":{"a":1},"more":2}"#;
        let call = parse(line).unwrap();
        assert_eq!(call.id, Some(Value::Null));
        assert_eq!(call.params["a"], 1);
        let call = parse(br#"{"jsonrpc":"2.0","method":"m"}"#).unwrap();
        assert_eq!(call.id, None);
    }

    #[test]
    fn the_error_does_not_repeat_an_invalid_answer() {
        use tunneld_proto::message::{Answer, method};
        let given = serde_json::json!({"id": 1, "answers": "hunter2"});
        let error = params::<Answer>(method::PROMPT_ANSWER, given).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
