//! Which header fields a proxy passes on (RFC 9110 §7.6).

use hyper::header::{
    self, CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::{Method, Version, http};

use super::destination::Destination;

/// Fields that concern one connection only, whether or not `Connection` names them.
const HOP_BY_HOP: [HeaderName; 7] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    TE,
    // The body is decoded and encoded again for the next connection.
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Turns a request to the proxy into the request to its destination: origin-form, HTTP/1.1, `Host` from the URL, and no
/// field that concerns the client's connection. Returns whether the request asks for an upgrade, such as to WebSocket.
pub fn prepare_request(parts: &mut http::request::Parts, destination: &Destination) -> bool {
    // An HTTP/1.0 client cannot upgrade (RFC 9110 §7.8).
    let upgrade = requested_upgrade(&parts.headers).filter(|_| parts.version >= Version::HTTP_11);
    let takes_trailers = lists(&parts.headers, &TE, "trailers");
    let is_chunked = parts.headers.contains_key(TRANSFER_ENCODING);
    strip_hop_by_hop(&mut parts.headers);
    if is_chunked {
        // Without it hyper sends no body with a method that usually has none, such as GET.
        parts
            .headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(upgrade) = &upgrade {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, upgrade.clone());
    }
    if takes_trailers {
        parts
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    if parts.version < Version::HTTP_11 {
        // HTTP/1.0 has no 100 response (RFC 9110 §10.1.1).
        parts.headers.remove(EXPECT);
    }
    parts.headers.insert(HOST, host_field(destination));
    parts.uri = origin_form(&parts.method, &parts.uri);
    parts.version = Version::HTTP_11;
    upgrade.is_some()
}

/// Removes from a response what concerns the connection to its origin. The fields of an upgrade stay in a 101 response.
pub fn prepare_response(parts: &mut http::response::Parts) {
    let upgrade = requested_upgrade(&parts.headers);
    strip_hop_by_hop(&mut parts.headers);
    if let Some(upgrade) = upgrade
        && parts.status == http::StatusCode::SWITCHING_PROTOCOLS
    {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
    }
}

/// Returns whether the body has a transfer coding that this proxy cannot take off: it passes bodies on decoded, and only
/// `chunked`, once, is decoded.
pub fn has_unknown_coding(headers: &HeaderMap) -> bool {
    let mut codings = tokens(headers, &TRANSFER_ENCODING);
    codings
        .next()
        .is_some_and(|coding| !coding.eq_ignore_ascii_case("chunked"))
        || codings.next().is_some()
}

/// Returns whether the client waits for a 100 response before it sends the body.
pub fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Returns the protocol that the message upgrades to. `None` without an upgrade, and for HTTP/2 without TLS (h2c): its
/// frames would carry requests past this proxy's rules.
fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE)?;
    let is_h2c = upgrade
        .as_bytes()
        .split(|&byte| byte == b',')
        .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"));
    (lists(headers, &CONNECTION, "upgrade") && !is_h2c).then(|| upgrade.clone())
}

/// Returns whether a comma-separated field has `token`.
fn lists(headers: &HeaderMap, field: &HeaderName, token: &str) -> bool {
    tokens(headers, field).any(|found| found.eq_ignore_ascii_case(token))
}

fn tokens<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(field)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| token.parse().ok())
        // Without these the message would have another meaning; a client could remove them by naming them.
        .filter(|name| !matches!(*name, HOST | header::CONTENT_LENGTH))
        .collect();
    headers.remove(CONNECTION);
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Returns the value of `Host`: brackets around an IPv6 address, and no port if it is 80.
fn host_field(destination: &Destination) -> HeaderValue {
    let Destination { host, port } = destination;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    let value = if *port == 80 {
        host
    } else {
        format!("{host}:{port}")
    };
    // The host came out of a valid URI, so it is a valid field value.
    HeaderValue::from_str(&value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn origin_form(method: &Method, target: &Uri) -> Uri {
    let path = match target.path_and_query() {
        // RFC 9112 §3.2.4: `OPTIONS http://host` asks about the server as a whole.
        Some(path) if *method == Method::OPTIONS && path.as_str() == "/" => {
            PathAndQuery::from_static("*")
        }
        // `http://host?query` has an empty path, which is sent as `/` (RFC 9112 §3.2.1).
        Some(path) if path.as_str().starts_with('?') => {
            let path = format!("/{}", path.as_str());
            path.parse()
                .unwrap_or_else(|_| PathAndQuery::from_static("/"))
        }
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    };
    Uri::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn prepared(
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
    ) -> (http::request::Parts, bool) {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let destination = Destination {
            host: "h".to_owned(),
            port: 8088,
        };
        let upgrade = prepare_request(&mut parts, &destination);
        (parts, upgrade)
    }

    #[test]
    fn fields_of_the_clients_connection_are_not_passed_on() {
        let (parts, upgrade) = prepared(
            "GET",
            "http://h:8088/a?b",
            &[
                ("host", "other"),
                ("connection", "keep-alive, X-Hop, Host, Content-Length"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "Basic c2VjcmV0"),
                ("te", "gzip, trailers"),
                ("upgrade", "websocket"),
                ("content-length", "3"),
                ("cookie", "a=b"),
            ],
        );
        assert!(!upgrade);
        let mut fields: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        assert_eq!(
            fields,
            [
                "content-length: 3",
                "cookie: a=b",
                "host: h:8088",
                "te: trailers"
            ]
        );
        assert_eq!(parts.uri, "/a?b");
    }

    #[test]
    fn an_upgrade_is_passed_on_except_to_h2c() {
        let ask = |protocol| {
            prepared(
                "GET",
                "http://h/",
                &[("connection", "Upgrade"), ("upgrade", protocol)],
            )
        };
        let (parts, upgrade) = ask("websocket");
        assert!(upgrade);
        assert_eq!(parts.headers[CONNECTION], "upgrade");
        assert_eq!(parts.headers[UPGRADE], "websocket");
        let (parts, upgrade) = ask("websocket, h2c");
        assert!(!upgrade);
        assert!(!parts.headers.contains_key(UPGRADE));
    }

    #[test]
    fn the_target_becomes_origin_form() {
        for (method, target, origin) in [
            ("GET", "http://h", "/"),
            ("GET", "http://h?q=1", "/?q=1"),
            ("OPTIONS", "http://h", "*"),
            ("OPTIONS", "http://h/a", "/a"),
        ] {
            assert_eq!(prepared(method, target, &[]).0.uri, origin, "{target}");
        }
    }

    #[test]
    fn the_host_field_is_that_of_the_url() {
        let field = |host: &str, port| {
            host_field(&Destination {
                host: host.to_owned(),
                port,
            })
        };
        assert_eq!(field("h", 80), "h");
        assert_eq!(field("h", 81), "h:81");
        assert_eq!(field("fd00::1", 80), "[fd00::1]");
    }
}
