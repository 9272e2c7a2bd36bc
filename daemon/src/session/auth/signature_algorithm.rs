//! Which signature algorithms a key is offered with (RFC 8332 for RSA, RFC 8308 for what the server announces).

use tunneld_keys::wire;

/// Returns the algorithms to offer the key or certificate `blob` with, in order: those that `allowed` has and that the
/// server announces. An empty `allowed` allows all but SHA-1. `server` is `None` if the server announces nothing.
pub(crate) fn signature_algorithms(
    blob: &[u8],
    allowed: &[String],
    server: Option<&[String]>,
) -> Vec<String> {
    let Some(name) = wire::name(blob) else {
        return Vec::new();
    };
    let (plain, certified) = wire::plain_type(name);
    if plain != "ssh-rsa" {
        // All other keys have one algorithm, which is named like their type.
        let is_allowed = allowed.is_empty() || allowed.iter().any(|allowed| allowed == name);
        return match is_allowed {
            true => vec![name.to_owned()],
            false => Vec::new(),
        };
    }
    let suffix = match certified {
        true => "-cert-v01@openssh.com",
        false => "",
    };
    let is_listed = |plain: &str| allowed.contains(&format!("{plain}{suffix}"));
    let server_accepts =
        |plain: &str| server.is_none_or(|server| server.iter().any(|accepted| accepted == plain));
    let sha2 = ["rsa-sha2-512", "rsa-sha2-256"]
        .into_iter()
        .find(|plain| server_accepts(plain) && (allowed.is_empty() || is_listed(plain)));
    // SHA-1 is broken: only if the configuration names it.
    let sha1 = Some("ssh-rsa").filter(|plain| server_accepts(plain) && is_listed(plain));
    // A server that announces nothing is so old that SHA-1 is the better guess. One that announces SHA-2 may announce
    // more than it accepts, so that SHA-1 goes last.
    let order = match server {
        None => [sha1, sha2],
        Some(_) => [sha2, sha1],
    };
    order
        .into_iter()
        .flatten()
        .map(|plain| format!("{plain}{suffix}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str) -> Vec<u8> {
        let mut key = Vec::new();
        wire::put_string(&mut key, kind.as_bytes());
        key
    }

    #[test]
    fn rsa_signs_with_sha2_and_with_sha1_only_if_allowed() {
        let rsa = key("ssh-rsa");
        assert_eq!(signature_algorithms(&rsa, &[], None), ["rsa-sha2-512"]);
        let only_256 = ["rsa-sha2-256".to_owned(), "ssh-rsa".to_owned()];
        assert_eq!(
            signature_algorithms(&rsa, &[], Some(&only_256)),
            ["rsa-sha2-256"]
        );
        assert_eq!(
            signature_algorithms(&rsa, &["ssh-rsa".to_owned()], None),
            ["ssh-rsa"]
        );
        let with_sha1 = ["rsa-sha2-512".to_owned(), "ssh-rsa".to_owned()];
        assert_eq!(
            signature_algorithms(&rsa, &with_sha1, None),
            ["ssh-rsa", "rsa-sha2-512"],
            "an old server that announces nothing"
        );
        assert_eq!(
            signature_algorithms(&rsa, &with_sha1, Some(&with_sha1)),
            ["rsa-sha2-512", "ssh-rsa"]
        );
        let certified = signature_algorithms(&key("ssh-rsa-cert-v01@openssh.com"), &[], None);
        assert_eq!(
            certified.first().unwrap(),
            "rsa-sha2-512-cert-v01@openssh.com"
        );
    }

    #[test]
    fn other_keys_sign_with_the_algorithm_of_their_type() {
        let ed25519 = key("ssh-ed25519");
        let other = ["rsa-sha2-256".to_owned(), "ssh-rsa".to_owned()];
        assert_eq!(
            signature_algorithms(&ed25519, &[], Some(&other)),
            ["ssh-ed25519"]
        );
        assert!(signature_algorithms(&ed25519, &other, None).is_empty());
    }
}
