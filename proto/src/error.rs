//! The error object of a reply: a coarse JSON-RPC code, and a stable kind for programs to compare.

use serde::{Deserialize, Serialize};

/// A JSON-RPC 2.0 error object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// JSON-RPC code: -32700 parse error, -32600 invalid request, -32601 unknown method, -32602 invalid parameters,
    /// -32000 anything else.
    pub code: i32,
    /// One sentence for the user.
    pub message: String,
    /// Kind for programs; hint and causes for the user.
    pub data: ErrorData,
}

/// The `data` member of an [`RpcError`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorData {
    /// Stable kind, for programs to compare.
    pub kind: ErrorKind,
    /// What the user can do about it; `None` if nothing is known to help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Chain of causes, outermost first; or one entry per error if there are several errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

kinds! {
    /// Kind of an error that a call returns.
    ErrorKind {
        /// The line is not JSON.
        ParseError = "parse_error",
        /// The object is not a request, or it came before `hello`.
        InvalidRequest = "invalid_request",
        /// The daemon does not have this method.
        UnknownMethod = "unknown_method",
        /// The parameters do not fit the method.
        InvalidParams = "invalid_params",
        /// No common protocol version; `causes` lists the versions of the daemon.
        UnsupportedProtocol = "unsupported_protocol",
        /// Too many clients are connected.
        Busy = "busy",
        /// A line is longer than [`MAX_LINE`](crate::version::MAX_LINE).
        LineTooLong = "line_too_long",
        /// No tunnel has this name.
        TunnelNotFound = "tunnel_not_found",
        /// A tunnel with this name exists.
        TunnelExists = "tunnel_exists",
        /// The tunnel failed; the first cause is the [`FailureKind`](crate::failure::FailureKind).
        TunnelFailed = "tunnel_failed",
        /// The time limit of a wait passed.
        Timeout = "timeout",
        /// The configuration has errors, one in each of `causes`.
        Config = "config",
        /// No open prompt has this id.
        PromptNotFound = "prompt_not_found",
        /// The answer does not fit the prompt.
        InvalidAnswer = "invalid_answer",
        /// The tunnel has no session.
        NotUp = "not_up",
        /// The SSH server did not open the connection.
        OpenFailed = "open_failed",
        /// The daemon is stopping and accepts no more changes.
        Stopping = "stopping",
        /// Any other error, including a bug in the daemon.
        Internal = "internal",
    }
}

impl RpcError {
    /// Makes an error with the JSON-RPC code of its kind.
    ///
    /// ```
    /// use tunneld_proto::error::{ErrorKind, RpcError};
    /// let error = RpcError::new(ErrorKind::NotUp, "db has no session").hint("tunnelctl up db");
    /// assert_eq!(error.code, -32000);
    /// ```
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

    /// Sets what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.data.hint = Some(hint.into());
        self
    }

    /// Sets the chain of causes, outermost first.
    #[must_use]
    pub fn causes(mut self, causes: impl IntoIterator<Item = String>) -> Self {
        self.data.causes = causes.into_iter().collect();
        self
    }
}
