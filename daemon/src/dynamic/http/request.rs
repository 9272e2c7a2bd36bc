//! What a client of the HTTP proxy asks for, by the form of its request target (RFC 9112 §3.2).

use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use hyper::http::uri::{Authority, Scheme, Uri};
use hyper::{Method, StatusCode};

pub use super::destination::Destination;
use super::headers::has_unknown_coding;

/// A valid request to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyRequest {
    /// CONNECT (RFC 9110 §9.3.6): the connection becomes a byte stream to the destination.
    Connect(Destination),
    /// A request for an `http://` URL in absolute-form.
    Forward(Destination),
    /// A request in origin-form for a page of the proxy itself.
    Own(OwnPage),
}

/// A page that the proxy serves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnPage {
    /// `/`: says what this port is.
    Start,
    /// `/proxy.pac`: the proxy auto-configuration file.
    Pac,
    /// `/favicon.ico`: browsers ask for it; there is none.
    Favicon,
}

/// A request that cannot be served, whatever the state of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// 400, 404, 405 or 501.
    pub status: StatusCode,
    /// One sentence for the user of the client.
    pub message: &'static str,
}

const fn bad_request(message: &'static str) -> Rejection {
    Rejection {
        status: StatusCode::BAD_REQUEST,
        message,
    }
}

/// Returns what the request asks for. `own_port` is the TCP port that the proxy listens on; `None` for a Unix socket,
/// which serves no page of its own.
///
/// # Errors
/// The request target has a form or scheme that a proxy does not serve, or names no destination.
pub fn classify(
    method: &Method,
    target: &Uri,
    headers: &HeaderMap,
    own_port: Option<u16>,
) -> Result<ProxyRequest, Rejection> {
    if headers.get_all(HOST).iter().count() > 1 {
        // Two hops could believe different ones (RFC 9112 §3.2).
        return Err(bad_request("The request has more than one Host field."));
    }
    if has_unknown_coding(headers) {
        return Err(Rejection {
            status: StatusCode::NOT_IMPLEMENTED,
            message: "This proxy knows no transfer coding but chunked.",
        });
    }
    if method == Method::CONNECT {
        // What follows the head belongs to the byte stream: a body would take its first bytes (RFC 9110 §9.3.6).
        let has_body = headers.contains_key(TRANSFER_ENCODING)
            || headers
                .get(CONTENT_LENGTH)
                .is_some_and(|length| length != "0");
        if has_body {
            return Err(bad_request("A CONNECT request has no body."));
        }
        let authority = target.authority().ok_or(bad_request(
            "CONNECT needs a host and a port, such as example.internal:443.",
        ))?;
        return destination(authority, None).map(ProxyRequest::Connect);
    }
    match (target.scheme(), target.authority()) {
        (Some(scheme), Some(authority)) if *scheme == Scheme::HTTP => {
            destination(authority, Some(80)).map(ProxyRequest::Forward)
        }
        (Some(scheme), _) if *scheme == Scheme::HTTPS => Err(bad_request(
            "This proxy carries https:// by CONNECT only. Configure it as the client's HTTPS proxy.",
        )),
        (Some(_), _) => Err(Rejection {
            status: StatusCode::NOT_IMPLEMENTED,
            message: "This proxy serves http:// URLs and CONNECT only.",
        }),
        (None, _) => own_page(method, target, headers, own_port).map(ProxyRequest::Own),
    }
}

/// Returns the host and port of `authority`. Its user name and password, if any, are not part of the destination.
fn destination(authority: &Authority, default_port: Option<u16>) -> Result<Destination, Rejection> {
    let host = authority.host();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    // Not `Authority::port`, which is `None` for a number above 65535 as well.
    let (_, after_user) = authority
        .as_str()
        .rsplit_once('@')
        .unwrap_or(("", authority.as_str()));
    let port = after_user
        .get(authority.host().len()..)
        .unwrap_or_default()
        .trim_start_matches(':');
    // RFC 3986 §3.2.3 allows an empty port: `http://host:/`.
    let port = match port {
        "" => default_port,
        port => port.parse().ok(),
    };
    match port {
        _ if host.is_empty() => Err(bad_request("The request names no host.")),
        Some(port) if port != 0 => Ok(Destination {
            host: host.to_owned(),
            port,
        }),
        _ => Err(bad_request("The request needs a port from 1 to 65535.")),
    }
}

/// Serves only loopback names with the proxy's own port. Otherwise a web site could point its own name at this machine
/// (DNS rebinding) and read, as the same origin, which internal names the PAC file has.
fn own_page(
    method: &Method,
    target: &Uri,
    headers: &HeaderMap,
    own_port: Option<u16>,
) -> Result<OwnPage, Rejection> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| is_own_host(host, own_port)) {
        return Err(bad_request(
            "This is an HTTP and SOCKS proxy. Configure it as a proxy; it is not a web server.",
        ));
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Rejection {
            status: StatusCode::METHOD_NOT_ALLOWED,
            message: "The pages of this proxy can only be read.",
        });
    }
    match target.path() {
        "/" => Ok(OwnPage::Start),
        "/proxy.pac" => Ok(OwnPage::Pac),
        "/favicon.ico" => Ok(OwnPage::Favicon),
        _ => Err(Rejection {
            status: StatusCode::NOT_FOUND,
            message: "This is an HTTP and SOCKS proxy. It serves / and /proxy.pac; configure it as a proxy for everything else.",
        }),
    }
}

fn is_own_host(host: &str, own_port: Option<u16>) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let is_loopback = name.eq_ignore_ascii_case("localhost")
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let port = authority.port_u16().or(Some(80));
    is_loopback && !host.contains('@') && own_port.is_some() && port == own_port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, target: &str, host: &[&str]) -> Result<ProxyRequest, Rejection> {
        let mut headers = HeaderMap::new();
        for host in host {
            headers.append(HOST, host.parse().unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        classify(&method, &target.parse().unwrap(), &headers, Some(8157))
    }

    fn to(host: &str, port: u16) -> Destination {
        Destination {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn connect_needs_a_host_and_a_port() {
        let connect = |target| ask("CONNECT", target, &[]);
        for (target, host, port) in [
            ("db.internal:443", "db.internal", 443),
            ("[fd00::1]:8443", "fd00::1", 8443),
            ("10.0.0.1:1", "10.0.0.1", 1),
        ] {
            assert_eq!(connect(target), Ok(ProxyRequest::Connect(to(host, port))));
        }
        for target in ["db.internal", "db.internal:0", "/index.html"] {
            let rejected = connect(target).unwrap_err();
            assert_eq!(rejected.status, StatusCode::BAD_REQUEST, "{target}");
        }
    }

    #[test]
    fn the_url_decides_the_destination_and_not_the_host_field() {
        let forward = |target| ask("GET", target, &["other.example"]);
        for (target, host, port) in [
            ("http://yarn.internal/cluster", "yarn.internal", 80),
            ("http://yarn.internal:8088", "yarn.internal", 8088),
            ("HTTP://[::1]:1/", "::1", 1),
            ("http://user:password@h/", "h", 80),
        ] {
            assert_eq!(
                forward(target),
                Ok(ProxyRequest::Forward(to(host, port))),
                "{target}"
            );
        }
    }

    #[test]
    fn other_schemes_and_ports_are_rejected() {
        for (target, status) in [
            ("https://h/", 400),
            ("ftp://h/", 501),
            ("http://h:0/", 400),
            ("http://h:99999/", 400),
        ] {
            let Ok(uri) = target.parse() else { continue };
            let rejected = classify(&Method::GET, &uri, &HeaderMap::new(), None).unwrap_err();
            assert_eq!(rejected.status.as_u16(), status, "{target}");
        }
        let two = ask("GET", "http://h/", &["a", "b"]).unwrap_err();
        assert_eq!(two.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn own_pages_are_served_to_a_loopback_host_with_the_own_port_alone() {
        for host in [
            "localhost:8157",
            "LOCALHOST:8157",
            "127.0.0.1:8157",
            "127.9.9.9:8157",
            "[::1]:8157",
        ] {
            let page = ask("GET", "/proxy.pac", &[host]);
            assert_eq!(page, Ok(ProxyRequest::Own(OwnPage::Pac)), "{host}");
        }
        for host in [
            "evil.example:8157",
            "localhost",
            "localhost:8158",
            "localhost.evil.example:8157",
            "a@localhost:8157",
            "10.0.0.1:8157",
            "",
        ] {
            let rejected = ask("GET", "/proxy.pac", &[host]).unwrap_err();
            assert_eq!(rejected.status, StatusCode::BAD_REQUEST, "{host}");
        }
        assert!(ask("GET", "/", &[]).is_err());
        let post = ask("POST", "/", &["localhost:8157"]).unwrap_err();
        assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED);
        let other = ask("GET", "/cluster", &["localhost:8157"]).unwrap_err();
        assert_eq!(other.status, StatusCode::NOT_FOUND);
    }
}
