//! Which requests a local web server answers: those that no web site can make a browser send and read the answer of.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap};

/// Why a request is refused, for the body of the 403 response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A web site has pointed its own name at this machine (DNS rebinding), or the request has no Host field.
    #[error("This server answers only to localhost, 127.0.0.1 or [::1] with its own port.")]
    Host,
    /// The browser says that another site or another port of this machine makes the request.
    #[error("This server does not answer to pages of other origins.")]
    Site,
}

/// Checks a request to a server on a loopback address with the TCP port `port`. `port` is `None` for a server that other
/// machines reach by any name, or a Unix socket.
///
/// # Errors
/// Why the request is refused.
pub fn check(headers: &HeaderMap, port: Option<u16>) -> Result<(), Refused> {
    if let Some(port) = port {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        // A second field could be what another reader believes (RFC 9112 §3.2).
        if hosts.next().is_some() || !host.is_some_and(|host| is_loopback(host, port)) {
            return Err(Refused::Host);
        }
    }
    match headers.get("sec-fetch-site").map(|site| site.as_bytes()) {
        // `none`: typed by the user. Another port of this machine is `same-site`.
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Refused::Site),
    }
}

/// Whether a Host field names this machine's loopback with this port.
pub fn is_loopback(host: &str, port: u16) -> bool {
    let suffix = format!(":{port}");
    // A browser leaves the default port out.
    let name = match host.strip_suffix(&suffix) {
        Some(name) => name,
        None if port == 80 => host,
        None => return false,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_loopback_names_with_the_own_port_are_answered() {
        for (host, expected) in [
            ("localhost:9145", Ok(())),
            ("LocalHost:9145", Ok(())),
            ("127.0.0.1:9145", Ok(())),
            ("[::1]:9145", Ok(())),
            ("evil.example:9145", Err(Refused::Host)),
            ("localhost.evil.example:9145", Err(Refused::Host)),
            ("localhost:9146", Err(Refused::Host)),
            ("localhost", Err(Refused::Host)),
            ("10.0.0.1:9145", Err(Refused::Host)),
        ] {
            assert_eq!(
                check(&headers(&[("host", host)]), Some(9145)),
                expected,
                "{host}"
            );
        }
        assert_eq!(check(&headers(&[]), Some(9145)), Err(Refused::Host));
        let two = headers(&[("host", "localhost:9145"), ("host", "evil.example")]);
        assert_eq!(check(&two, Some(9145)), Err(Refused::Host));
        assert_eq!(check(&headers(&[("host", "any.example")]), None), Ok(()));
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        for (site, expected) in [
            ("same-origin", Ok(())),
            ("none", Ok(())),
            ("same-site", Err(Refused::Site)),
            ("cross-site", Err(Refused::Site)),
            ("new-word", Err(Refused::Site)),
        ] {
            let fields = [("host", "localhost:1"), ("sec-fetch-site", site)];
            assert_eq!(check(&headers(&fields), Some(1)), expected, "{site}");
        }
    }
}
