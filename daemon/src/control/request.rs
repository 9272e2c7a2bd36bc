//! From a line to a request, or to the error that answers it.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tunneld_proto::error::{ErrorKind, RpcError};

/// A request that is one.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    /// None for a notification, which gets no reply.
    pub(super) id: Option<Value>,
    pub(super) method: String,
    pub(super) params: Value,
}

/// The error, and the id it goes to as far as one could be read.
pub(super) type Refusal = (Value, RpcError);

/// Reads one request.
pub(super) fn parse(line: &[u8]) -> Result<Call, Box<Refusal>> {
    let refuse = |id, kind, message: String| {
        let hint = "send one JSON-RPC 2.0 request a line, such as \
                    {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"daemon.status\"}";
        Box::new((id, RpcError::new(kind, message).hint(hint)))
    };
    let value: Value = serde_json::from_slice(line).map_err(|error| {
        let message = format!("the line is no JSON: {error}");
        refuse(Value::Null, ErrorKind::ParseError, message)
    })?;
    let invalid = |id, message: &str| refuse(id, ErrorKind::InvalidRequest, message.to_owned());
    let Value::Object(mut object) = value else {
        return Err(invalid(Value::Null, "the request is no JSON object"));
    };
    let id = object.remove("id");
    if !matches!(
        id,
        None | Some(Value::Null | Value::String(_) | Value::Number(_))
    ) {
        let message = "the request's id is neither a string nor a number";
        return Err(invalid(Value::Null, message));
    }
    let to = || id.clone().unwrap_or_default();
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(invalid(to(), "the request's `jsonrpc` is not \"2.0\""));
    }
    let Some(Value::String(method)) = object.remove("method") else {
        return Err(invalid(
            to(),
            "the request's `method` is missing or no string",
        ));
    };
    let params = object.remove("params").unwrap_or_default();
    if !matches!(params, Value::Null | Value::Object(_) | Value::Array(_)) {
        return Err(invalid(to(), "the request's `params` are no object"));
    }
    Ok(Call { id, method, params })
}

/// The parameters of `method` in their type; none at all count as an empty object.
pub(super) fn params<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, RpcError> {
    let params = match params {
        Value::Null => Value::Object(serde_json::Map::new()),
        Value::Array(_) => {
            let message = format!("{method}: the parameters have names: give an object");
            return Err(RpcError::new(ErrorKind::InvalidParams, message));
        }
        params => params,
    };
    serde_json::from_value(params).map_err(|error| {
        // serde shows the value it stumbled over: an answer to a prompt must not come back that way.
        let why = match method {
            tunneld_proto::message::method::PROMPT_ANSWER => {
                "they are {id, answers:[…]}".to_owned()
            }
            _ => tunneld_proto::text::escape(&error.to_string()),
        };
        let message = format!("{method}: the parameters do not fit: {why}");
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
    fn what_is_no_json_is_a_parse_error() {
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
    fn what_is_no_request_is_an_invalid_one_with_its_id() {
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
    fn a_request_is_read_and_a_notification_told_apart() {
        let line = br#"{"jsonrpc":"2.0","id":null,"method":"m","params":{"a":1},"more":2}"#;
        let call = parse(line).unwrap();
        assert_eq!(call.id, Some(Value::Null));
        assert_eq!(call.params["a"], 1);
        let call = parse(br#"{"jsonrpc":"2.0","method":"m"}"#).unwrap();
        assert_eq!(call.id, None);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_not_repeated() {
        use tunneld_proto::message::{Answer, method};
        let given = serde_json::json!({"id": 1, "answers": "hunter2"});
        let error = params::<Answer>(method::PROMPT_ANSWER, given).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
