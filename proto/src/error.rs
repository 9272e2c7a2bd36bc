//! The error object of a reply: a coarse JSON-RPC code, and a stable kind that programs compare.

use serde::{Deserialize, Serialize};

/// A JSON-RPC 2.0 error object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// The JSON-RPC code: -32700 parse, -32600 request, -32601 method, -32602 parameters, -32000 all else.
    pub code: i32,
    /// One sentence for a person.
    pub message: String,
    /// What programs and hints need.
    pub data: ErrorData,
}

/// The `data` member of an [`RpcError`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorData {
    /// The stable kind.
    pub kind: ErrorKind,
    /// What to do now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The chain of causes, outermost first; or every fault where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

kinds! {
    /// What went wrong with a call.
    ErrorKind {
        /// The line is no JSON.
        ParseError = "parse_error",
        /// The object is no request, or comes before `hello`.
        InvalidRequest = "invalid_request",
        /// No such method.
        UnknownMethod = "unknown_method",
        /// The parameters do not fit the method.
        InvalidParams = "invalid_params",
        /// No common protocol version; the daemon's own stand in `causes`.
        UnsupportedProtocol = "unsupported_protocol",
        /// Too many clients at once.
        Busy = "busy",
        /// A line over the limit.
        LineTooLong = "line_too_long",
        /// No tunnel of that name.
        TunnelNotFound = "tunnel_not_found",
        /// A tunnel of that name exists.
        TunnelExists = "tunnel_exists",
        /// The tunnel did not come up; the failure's own kind leads `causes`.
        TunnelFailed = "tunnel_failed",
        /// The wait ran out.
        Timeout = "timeout",
        /// The configuration has errors, one in each of `causes`.
        Config = "config",
        /// No prompt of that id waits.
        PromptNotFound = "prompt_not_found",
        /// The answer does not fit the prompt.
        InvalidAnswer = "invalid_answer",
        /// The tunnel has no live session.
        NotUp = "not_up",
        /// The far end did not open the connection.
        OpenFailed = "open_failed",
        /// The daemon is stopping.
        Stopping = "stopping",
        /// Anything else, a defect included.
        Internal = "internal",
    }
}

impl RpcError {
    /// An error of `kind` with the code that belongs to it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let code = match kind {
            ErrorKind::ParseError => -32700,
            ErrorKind::InvalidRequest => -32600,
            ErrorKind::UnknownMethod => -32601,
            ErrorKind::InvalidParams => -32602,
            _ => -32000,
        };
        Self {
            code,
            message: message.into(),
            data: ErrorData {
                kind,
                hint: None,
                causes: Vec::new(),
            },
        }
    }

    /// The same error with what to do now.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.data.hint = Some(hint.into());
        self
    }

    /// The same error with its causes.
    #[must_use]
    pub fn causes(mut self, causes: impl IntoIterator<Item = String>) -> Self {
        self.data.causes = causes.into_iter().collect();
        self
    }
}
