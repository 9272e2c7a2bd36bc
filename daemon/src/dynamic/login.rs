//! The login that a client of a dynamic forward sends: SOCKS5 user and password (RFC 1929) or HTTP Basic (RFC 7617).

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

/// A user name and a password as a client sent them; not necessarily UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientLogin {
    user: Vec<u8>,
    password: Zeroizing<Vec<u8>>,
}

impl ClientLogin {
    /// Returns the login with this user name and password, each of any length.
    pub fn new(user: &[u8], password: &[u8]) -> Self {
        Self {
            user: user.to_vec(),
            password: Zeroizing::new(password.to_vec()),
        }
    }

    /// Returns whether it is the login of `user` with `password`. The time that it takes depends neither on where the
    /// first wrong byte is nor on which of the two is wrong.
    pub fn is(&self, user: &str, password: &str) -> bool {
        let same_user = is_equal(&self.user, user.as_bytes());
        let same_password = is_equal(&self.password, password.as_bytes());
        // Not `&&`: the password is compared for a wrong user too.
        same_user & same_password
    }
}

/// Compares digests, because the comparison of slices returns at once if their lengths differ.
fn is_equal(sent: &[u8], expected: &[u8]) -> bool {
    let (sent, expected) = (digest(&SHA256, sent), digest(&SHA256, expected));
    verify_slices_are_equal(sent.as_ref(), expected.as_ref()).is_ok()
}

impl fmt::Debug for ClientLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLogin").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_the_user_and_the_password_must_be_right() {
        for (user, password, accepted) in [
            ("alice", "secret", true),
            ("alice", "Secret", false),
            ("alice", "secret ", false),
            ("alice", "", false),
            ("alic", "secret", false),
            ("", "", false),
        ] {
            let login = ClientLogin::new(user.as_bytes(), password.as_bytes());
            assert_eq!(login.is("alice", "secret"), accepted, "{user}:{password}");
        }
    }

    #[test]
    fn the_debug_form_has_no_password() {
        let text = format!("{:?}", ClientLogin::new(b"alice", b"secret"));
        assert!(!text.contains("secret") && !text.contains("115"), "{text}");
    }
}
