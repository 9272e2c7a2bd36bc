//! The proxy's own responses: failures, and the pages at `/` and `/proxy.pac`.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, RETRY_AFTER,
};
use hyper::{Response, StatusCode};

use super::response_body::OriginBody;
use crate::dynamic::http::login;
use crate::dynamic::http::page::{self, Failure};
use crate::dynamic::http::request::{Destination, Rejection};
use crate::forward::context::TunnelSummary;
use crate::forward::hold::NotOpened;
use crate::forward::proxy_login::LoginResult;
use crate::session::OpenError;

/// A body from the origin, or one of the proxy's own.
pub(super) type ResponseBody = Either<OriginBody, Full<Bytes>>;

/// How a client wants its failures: a browser gets a page, CONNECT and other clients one line of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Html,
}

impl Format {
    /// Returns the format that suits a request with these fields.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if page::wants_html(headers) {
            Self::Html
        } else {
            Self::Text
        }
    }
}

/// Returns the response to a request whose channel was not opened. `None` if the connection is to be reset: the client
/// is gone, or newer clients took its place.
pub(super) fn not_opened(
    reason: &NotOpened,
    destination: &Destination,
    summary: &TunnelSummary,
    format: Format,
    may_reload: bool,
) -> Option<Response<ResponseBody>> {
    let Destination { host, port } = destination;
    let mut failure = Failure {
        tunnel: summary.name.clone(),
        ..Failure::default()
    };
    let status = match reason {
        NotOpened::ClientGone | NotOpened::Evicted => return None,
        NotOpened::Refused(error) => {
            failure.facts = vec![("destination", format!("{host}:{port}"))];
            refused(error, &mut failure)
        }
        NotOpened::HoldTimedOut | NotOpened::TunnelFailed => {
            failure.title = "The tunnel is not connected.".to_owned();
            failure.facts = summary.facts();
            failure.reload = may_reload;
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    Some(respond(status, &failure, format))
}

/// Fills `failure` with why the server did not open the channel, and returns the status.
fn refused(error: &OpenError, failure: &mut Failure) -> StatusCode {
    let (status, title) = match error {
        // SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254 §5.1)
        OpenError::Refused { code: 1, .. } => (
            StatusCode::FORBIDDEN,
            "The SSH server does not allow connections to this destination.",
        ),
        OpenError::Timeout(_) => (
            StatusCode::GATEWAY_TIMEOUT,
            "The SSH server did not reach the destination in time.",
        ),
        OpenError::Refused { .. } | OpenError::InvalidHost | OpenError::SessionLost(_) => (
            StatusCode::BAD_GATEWAY,
            "The SSH server could not connect to the destination.",
        ),
    };
    failure.title = title.to_owned();
    failure.facts.push(("reason", error.to_string()));
    status
}

/// Returns the response to a request whose origin failed after the channel was open.
pub(super) fn origin_failed(
    error: &hyper::Error,
    destination: &Destination,
    summary: &TunnelSummary,
    format: Format,
) -> Response<ResponseBody> {
    let failure = Failure {
        tunnel: summary.name.clone(),
        title: "The destination closed the connection or sent an invalid response.".to_owned(),
        facts: vec![
            (
                "destination",
                format!("{}:{}", destination.host, destination.port),
            ),
            ("reason", error.to_string()),
        ],
        reload: false,
    };
    respond(StatusCode::BAD_GATEWAY, &failure, format)
}

/// Returns the response to a request whose session was lost while it waited for the origin.
pub(super) fn session_lost(
    destination: &Destination,
    summary: &TunnelSummary,
    format: Format,
) -> Response<ResponseBody> {
    let title = "The tunnel lost its SSH connection before the response.";
    respond(
        StatusCode::BAD_GATEWAY,
        &at(destination, summary, title),
        format,
    )
}

/// Returns the response to a request whose origin answers against the protocol.
pub(super) fn unexpected(
    destination: &Destination,
    summary: &TunnelSummary,
    format: Format,
) -> Response<ResponseBody> {
    let title = "The destination sent a response that this proxy cannot pass on.";
    respond(
        StatusCode::BAD_GATEWAY,
        &at(destination, summary, title),
        format,
    )
}

/// Returns the response to a request whose body is invalid.
pub(super) fn bad_body(summary: &TunnelSummary, format: Format) -> Response<ResponseBody> {
    let failure = Failure {
        tunnel: summary.name.clone(),
        title: "The body of the request is invalid, or was cut off.".to_owned(),
        ..Failure::default()
    };
    respond(StatusCode::BAD_REQUEST, &failure, format)
}

fn at(destination: &Destination, summary: &TunnelSummary, title: &str) -> Failure {
    let Destination { host, port } = destination;
    Failure {
        tunnel: summary.name.clone(),
        title: title.to_owned(),
        facts: vec![("destination", format!("{host}:{port}"))],
        reload: false,
    }
}

/// Returns the response to a request that no proxy can serve.
pub(super) fn rejected(
    rejection: Rejection,
    summary: &TunnelSummary,
    format: Format,
) -> Response<ResponseBody> {
    let failure = Failure {
        tunnel: summary.name.clone(),
        title: rejection.message.to_owned(),
        ..Failure::default()
    };
    respond(rejection.status, &failure, format)
}

/// Returns the response to a login that is not accepted; `None` for one that is.
pub(super) fn login_refused(
    result: LoginResult,
    summary: &TunnelSummary,
    format: Format,
) -> Option<Response<ResponseBody>> {
    let mut failure = Failure {
        tunnel: summary.name.clone(),
        ..Failure::default()
    };
    match result {
        LoginResult::Accepted => None,
        LoginResult::Wrong => {
            failure.title = "This proxy requires a user name and a password.".to_owned();
            let status = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
            let mut response = respond(status, &failure, format);
            let challenge = login::challenge(&summary.name);
            response.headers_mut().insert(PROXY_AUTHENTICATE, challenge);
            Some(response)
        }
        LoginResult::Unavailable => {
            // Not 407: a browser would ask its user again and again for a password that may be right. Why the command
            // failed is not for every user of this machine.
            failure.title = "The password of this proxy cannot be read.".to_owned();
            let hint = format!("run: tunnelctl status {}", summary.name);
            failure.facts = vec![("what to do", hint)];
            Some(respond(StatusCode::SERVICE_UNAVAILABLE, &failure, format))
        }
    }
}

fn respond(status: StatusCode, failure: &Failure, format: Format) -> Response<ResponseBody> {
    let (content_type, body) = match format {
        Format::Html => ("text/html; charset=utf-8", failure.to_html()),
        Format::Text => ("text/plain; charset=utf-8", failure.to_text()),
    };
    let mut response = own(status, content_type, body);
    if failure.reload {
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("3"));
    }
    response
}

/// Returns a response of the proxy itself.
pub(super) fn own(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<ResponseBody> {
    let mut response = Response::new(Either::Right(Full::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns the proxy auto-configuration file. Browsers fetch it again at each start.
pub(super) fn pac(file: String) -> Response<ResponseBody> {
    let mut response = own(StatusCode::OK, "application/x-ns-proxy-autoconfig", file);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // No page of another origin may load the file as a script and read the internal names in it.
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    response
}
