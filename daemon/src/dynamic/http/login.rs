//! The login of an HTTP request to the proxy: `Proxy-Authorization` with the scheme Basic (RFC 9110 §11.7, RFC 7617).

use base64ct::{Base64, Encoding as _};
use hyper::header::{HeaderMap, HeaderValue, PROXY_AUTHORIZATION};
use zeroize::Zeroizing;

use crate::dynamic::ClientLogin;

/// Returns the user name and password of a request. `None` without the field, with more than one, with another scheme,
/// or if it is malformed.
pub fn login(headers: &HeaderMap) -> Option<ClientLogin> {
    let mut fields = headers.get_all(PROXY_AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let (scheme, encoded) = field.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(Base64::decode_vec(encoded.trim_matches(' ')).ok()?);
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    // The password may contain colons, the user name may not (RFC 7617 §2).
    let (user, password) = decoded.split_at_checked(colon)?;
    Some(ClientLogin::new(user, password.get(1..)?))
}

/// Returns the field `Proxy-Authenticate` of a 407 response. The tunnel's name has no character that needs quoting.
pub fn challenge(tunnel: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("Basic realm=\"tunneld {tunnel}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("Basic realm=\"tunneld\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(fields: &[&str]) -> Option<ClientLogin> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(PROXY_AUTHORIZATION, field.parse().unwrap());
        }
        login(&headers)
    }

    #[test]
    fn the_password_is_what_follows_the_first_colon() {
        // a:b:c
        for field in ["Basic YTpiOmM=", "basic  YTpiOmM= "] {
            assert!(sent(&[field]).unwrap().is("a", "b:c"), "{field}");
        }
        // `a:` and `:`
        assert!(sent(&["Basic YTo="]).unwrap().is("a", ""));
        assert!(sent(&["Basic Og=="]).unwrap().is("", ""));
    }

    #[test]
    fn another_scheme_or_a_malformed_field_is_no_login() {
        for fields in [
            &[][..],
            &["Basic"],
            &["Basic "],
            &["Basic YTpi YTpi"],
            &["Basic !!!!"],
            // `ab` without a colon
            &["Basic YWI="],
            &["Bearer YTpi"],
            &["Basic YTpi", "Basic YTpi"],
        ] {
            assert_eq!(sent(fields), None, "{fields:?}");
        }
    }
}
