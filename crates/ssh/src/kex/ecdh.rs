//! Elliptic-curve Diffie-Hellman (RFC 5656, RFC 8731) and the hybrid of ML-KEM-768 and X25519: one round trip each.

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::{kem, rand};
use zeroize::Zeroizing;

use super::{HashAlgorithm, KexOutcome, kex_failed};
use crate::error::Error;
use crate::wire::{Reader, Writer};

/// SSH_MSG_KEX_ECDH_INIT; the hybrid uses the same number.
const INIT: u8 = 30;
/// SSH_MSG_KEX_ECDH_REPLY; the hybrid uses the same number.
const REPLY: u8 = 31;

const X25519_LEN: usize = 32;
const MLKEM_CIPHERTEXT_LEN: usize = 1088;

/// A key exchange whose first payload was sent.
pub(crate) struct Ecdh {
    curve: EcdhCurve,
    /// `None` once the reply was received: an ephemeral key is used once.
    private: Option<EphemeralPrivateKey>,
    /// The ML-KEM key. `None` without the hybrid.
    kem: Option<Box<kem::DecapsulationKey>>,
    /// Our public value as it was sent.
    client_public: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EcdhCurve {
    X25519,
    P256,
    P384,
    P521,
}

impl EcdhCurve {
    fn algorithm(self) -> &'static agreement::Algorithm {
        match self {
            Self::X25519 => &agreement::X25519,
            Self::P256 => &agreement::ECDH_P256,
            Self::P384 => &agreement::ECDH_P384,
            Self::P521 => &agreement::ECDH_P521,
        }
    }

    /// Size of a public value in bytes: points are uncompressed (RFC 5656 §4).
    fn public_len(self) -> usize {
        match self {
            Self::X25519 => X25519_LEN,
            Self::P256 => 65,
            Self::P384 => 97,
            Self::P521 => 133,
        }
    }
}

impl Ecdh {
    /// Generates the key pair, two for the hybrid. Returns the method with its first payload.
    pub(super) fn start(name: &str) -> Result<(Self, Vec<u8>), Error> {
        let curve = match name {
            "ecdh-sha2-nistp256" => EcdhCurve::P256,
            "ecdh-sha2-nistp384" => EcdhCurve::P384,
            "ecdh-sha2-nistp521" => EcdhCurve::P521,
            _ => EcdhCurve::X25519,
        };
        let no_key = |_| kex_failed("no key pair could be made");
        // The library does not take our source of random bytes for ephemeral keys.
        let private = EphemeralPrivateKey::generate(curve.algorithm(), &rand::SystemRandom::new())
            .map_err(no_key)?;
        let public = private.compute_public_key().map_err(no_key)?;
        let mut client_public = Vec::new();
        let kem = if name == "mlkem768x25519-sha256" {
            let key = kem::DecapsulationKey::generate(&kem::ML_KEM_768).map_err(no_key)?;
            let encapsulation = key
                .encapsulation_key()
                .and_then(|key| key.key_bytes())
                .map_err(no_key)?;
            client_public.extend_from_slice(encapsulation.as_ref());
            Some(Box::new(key))
        } else {
            None
        };
        // The ML-KEM key comes first, then the X25519 key, both in one string.
        client_public.extend_from_slice(public.as_ref());
        let mut payload = vec![INIT];
        payload.string(&client_public);
        let ecdh = Self {
            curve,
            private: Some(private),
            kem,
            client_public,
        };
        Ok((ecdh, payload))
    }

    pub(super) fn on_message(&mut self, payload: &[u8]) -> Result<KexOutcome, Error> {
        let mut reader = Reader::new(payload);
        if reader.u8()? != REPLY {
            return Err(kex_failed("an unexpected message"));
        }
        let host_key = reader.string()?.to_vec();
        let server_public = reader.string()?;
        let signature = reader.string()?.to_vec();
        reader.end()?;
        let private = self
            .private
            .take()
            .ok_or_else(|| kex_failed("a second reply"))?;
        let secret = match &self.kem {
            Some(kem) => hybrid(kem, private, server_public)?,
            None => {
                let mut secret = Zeroizing::new(Vec::with_capacity(80));
                agree(self.curve, private, server_public, |shared| {
                    secret.mpint(shared)
                })?;
                secret
            }
        };
        let mut hash_fields = Vec::new();
        hash_fields.string(&self.client_public);
        hash_fields.string(server_public);
        Ok(KexOutcome {
            host_key,
            signature,
            hash_fields,
            secret,
        })
    }
}

/// Computes the curve's shared secret and passes it to `use_secret`. A point that has the wrong size, is not on the
/// curve or is of small order is refused.
fn agree(
    curve: EcdhCurve,
    private: EphemeralPrivateKey,
    server_public: &[u8],
    use_secret: impl FnOnce(&[u8]),
) -> Result<(), Error> {
    // 4 marks an uncompressed point (RFC 5656 §4).
    let is_uncompressed = curve == EcdhCurve::X25519 || server_public.first() == Some(&4);
    if server_public.len() != curve.public_len() || !is_uncompressed {
        return Err(kex_failed("the server's public key has the wrong form"));
    }
    let peer = UnparsedPublicKey::new(curve.algorithm(), server_public);
    let invalid = || kex_failed("the server's public key is not a valid one");
    agreement::agree_ephemeral(private, peer, invalid(), |shared| {
        // RFC 8731 §3: an all-zero secret is the result of a point of small order.
        if shared.iter().all(|byte| *byte == 0) {
            return Err(invalid());
        }
        use_secret(shared);
        Ok(())
    })
}

/// Computes K = SHA256(K_PQ || K_CL), which is encoded as a string and not as an mpint.
fn hybrid(
    kem: &kem::DecapsulationKey,
    private: EphemeralPrivateKey,
    server_public: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    // In the server's answer the ML-KEM ciphertext comes first, too.
    let (ciphertext, public) = server_public
        .split_at_checked(MLKEM_CIPHERTEXT_LEN)
        .ok_or_else(|| kex_failed("the server's ML-KEM ciphertext is too short"))?;
    // A damaged ciphertext of the right length gives a secret that differs from the server's (implicit rejection): the
    // signature check fails then.
    let shared = kem
        .decapsulate(ciphertext.into())
        .map_err(|_| kex_failed("the server's ML-KEM ciphertext is not a valid one"))?;
    let mut secret = Zeroizing::new(Vec::with_capacity(36));
    agree(EcdhCurve::X25519, private, public, |classic| {
        secret.string(
            HashAlgorithm::Sha256
                .digest(&[shared.as_ref(), classic])
                .as_slice(),
        );
    })?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(public: &[u8]) -> Vec<u8> {
        let mut payload = vec![REPLY];
        payload.string(b"key");
        payload.string(public);
        payload.string(b"signature");
        payload
    }

    #[test]
    fn zero_short_and_long_points_are_refused() {
        for (name, length) in [
            ("curve25519-sha256", 32),
            ("ecdh-sha2-nistp256", 65),
            ("ecdh-sha2-nistp384", 97),
            ("ecdh-sha2-nistp521", 133),
            ("mlkem768x25519-sha256", MLKEM_CIPHERTEXT_LEN + 32),
        ] {
            for wrong in [0, 1, length - 1, length, length + 1, 4 * length] {
                let (mut ecdh, _) = Ecdh::start(name).unwrap();
                let outcome = ecdh.on_message(&reply(&vec![0; wrong]));
                assert!(
                    matches!(outcome, Err(Error::KexFailed(_))),
                    "{name} with {wrong} zeros"
                );
            }
        }
    }

    #[test]
    fn a_point_of_small_order_is_refused() {
        let mut one = vec![0; 32];
        one[0] = 1;
        let (mut ecdh, _) = Ecdh::start("curve25519-sha256").unwrap();
        assert!(ecdh.on_message(&reply(&one)).is_err());
    }

    #[test]
    fn both_sides_compute_the_same_secret() {
        for name in [
            "curve25519-sha256",
            "ecdh-sha2-nistp256",
            "ecdh-sha2-nistp521",
        ] {
            let (mut client, _) = Ecdh::start(name).unwrap();
            let (mut server, _) = Ecdh::start(name).unwrap();
            let (to_server, to_client) =
                (reply(&client.client_public), reply(&server.client_public));
            let client_outcome = client.on_message(&to_client).unwrap();
            let server_outcome = server.on_message(&to_server).unwrap();
            assert_eq!(client_outcome.secret, server_outcome.secret);
            assert!(client.on_message(&to_client).is_err(), "a second reply");
        }
    }
}
