//! Which requests the page's server answers. Pure.

use hyper::header::{AUTHORIZATION, HeaderMap, ORIGIN};

use crate::web::request_check;

/// The methods of the control protocol that the page may call. No other: `tunnel.add` could run programs, and
/// `daemon.shutdown` is not for a tab that somebody left open.
const CALLS: &[&str] = &[
    "tunnel.status",
    "tunnel.up",
    "tunnel.down",
    "tunnel.restart",
    "prompt.list",
    "prompt.answer",
    "prompt.cancel",
    "log.tail",
    "config.reload",
    "daemon.status",
];

/// Returns whether the page may call this method.
pub(super) fn is_allowed_call(method: &str) -> bool {
    CALLS.contains(&method)
}

/// Returns whether the request comes from the page itself: its Origin, where sent, is that of a loopback name with this
/// port, and the browser does not say that another site makes it.
pub(super) fn is_from_page(headers: &HeaderMap, port: u16) -> bool {
    let origin = headers.get(ORIGIN).map(|origin| origin.to_str());
    let is_own_origin = match origin {
        None => true,
        Some(Ok(origin)) => origin
            .strip_prefix("http://")
            .is_some_and(|host| request_check::is_loopback(host, port)),
        Some(Err(_)) => false,
    };
    is_own_origin && request_check::check(headers, Some(port)).is_ok()
}

/// Returns the session key that the request carries (RFC 6750 §2.1). `None` if it has none.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        fields.collect()
    }

    #[test]
    fn only_the_page_itself_is_answered() {
        for (fields, expected) in [
            (vec![("host", "127.0.0.1:8000")], true),
            (
                vec![
                    ("host", "127.0.0.1:8000"),
                    ("origin", "http://127.0.0.1:8000"),
                ],
                true,
            ),
            (
                vec![
                    ("host", "localhost:8000"),
                    ("origin", "http://127.0.0.1:8001"),
                ],
                false,
            ),
            (
                vec![
                    ("host", "localhost:8000"),
                    ("origin", "https://localhost:8000"),
                ],
                false,
            ),
            (vec![("host", "localhost:8000"), ("origin", "null")], false),
            (vec![("host", "evil.example:8000")], false),
            (
                vec![("host", "localhost:8000"), ("sec-fetch-site", "same-site")],
                false,
            ),
            (
                vec![
                    ("host", "localhost:8000"),
                    ("sec-fetch-site", "same-origin"),
                ],
                true,
            ),
        ] {
            assert_eq!(
                is_from_page(&headers(&fields), 8000),
                expected,
                "{fields:?}"
            );
        }
    }

    #[test]
    fn calls_that_run_programs_or_stop_the_daemon_are_not_allowed() {
        for method in [
            "tunnel.add",
            "tunnel.remove",
            "daemon.shutdown",
            "log.set_level",
            "connect",
            "hello",
            "web.open",
            "",
        ] {
            assert!(!is_allowed_call(method), "{method}");
        }
        assert!(is_allowed_call("tunnel.restart"));
    }

    #[test]
    fn the_session_key_is_a_bearer_token() {
        assert_eq!(
            bearer(&headers(&[("authorization", "Bearer abc")])),
            Some("abc")
        );
        assert_eq!(
            bearer(&headers(&[("authorization", "bearer  abc ")])),
            Some("abc")
        );
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
        assert_eq!(bearer(&headers(&[])), None);
    }
}
