//! Exchanges of one round trip on curves: RFC 5656, RFC 8731, and ML-KEM-768 with X25519.

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::{kem, rand};
use zeroize::Zeroizing;

use super::{Hash, Outcome, failed};
use crate::error::Error;
use crate::wire::{Reader, Writer};

/// SSH_MSG_KEX_ECDH_INIT, and its namesakes.
const INIT: u8 = 30;
/// SSH_MSG_KEX_ECDH_REPLY, and its namesakes.
const REPLY: u8 = 31;

const X25519_LEN: usize = 32;
const MLKEM_CIPHERTEXT_LEN: usize = 1088;

/// An exchange whose opening was sent.
pub(crate) struct Ecdh {
    curve: Curve,
    /// Used up by the answer.
    private: Option<EphemeralPrivateKey>,
    /// The post-quantum half.
    kem: Option<Box<kem::DecapsulationKey>>,
    /// What we sent.
    ours: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    X25519,
    P256,
    P384,
    P521,
}

impl Curve {
    fn algorithm(self) -> &'static agreement::Algorithm {
        match self {
            Self::X25519 => &agreement::X25519,
            Self::P256 => &agreement::ECDH_P256,
            Self::P384 => &agreement::ECDH_P384,
            Self::P521 => &agreement::ECDH_P521,
        }
    }

    /// The length of a public key: uncompressed points only, as RFC 5656 §4 has it.
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
    /// Makes the key pair, or the two of the hybrid, and the opening payload.
    pub(super) fn start(name: &str) -> Result<(Self, Vec<u8>), Error> {
        let curve = match name {
            "ecdh-sha2-nistp256" => Curve::P256,
            "ecdh-sha2-nistp384" => Curve::P384,
            "ecdh-sha2-nistp521" => Curve::P521,
            _ => Curve::X25519,
        };
        let no_key = |_| failed("no key pair could be made");
        let private = EphemeralPrivateKey::generate(curve.algorithm(), &rand::SystemRandom::new())
            .map_err(no_key)?;
        let public = private.compute_public_key().map_err(no_key)?;
        let mut ours = Vec::new();
        let kem = if name == "mlkem768x25519-sha256" {
            let key = kem::DecapsulationKey::generate(&kem::ML_KEM_768).map_err(no_key)?;
            let encapsulation = key
                .encapsulation_key()
                .and_then(|key| key.key_bytes())
                .map_err(no_key)?;
            ours.extend_from_slice(encapsulation.as_ref());
            Some(Box::new(key))
        } else {
            None
        };
        ours.extend_from_slice(public.as_ref());
        let mut payload = vec![INIT];
        payload.string(&ours);
        let ecdh = Self {
            curve,
            private: Some(private),
            kem,
            ours,
        };
        Ok((ecdh, payload))
    }

    /// Takes the reply.
    pub(super) fn on_message(&mut self, payload: &[u8]) -> Result<Outcome, Error> {
        let mut reader = Reader::new(payload);
        if reader.u8()? != REPLY {
            return Err(failed("an unexpected message"));
        }
        let host_key = reader.string()?.to_vec();
        let theirs = reader.string()?;
        let signature = reader.string()?.to_vec();
        reader.end()?;
        let private = self
            .private
            .take()
            .ok_or_else(|| failed("a second reply"))?;
        let secret = match &self.kem {
            Some(kem) => hybrid(kem, private, theirs)?,
            None => {
                let mut secret = Zeroizing::new(Vec::with_capacity(80));
                agree(self.curve, private, theirs, |shared| secret.mpint(shared))?;
                secret
            }
        };
        let mut fields = Vec::new();
        fields.string(&self.ours);
        fields.string(theirs);
        Ok(Outcome {
            host_key,
            signature,
            fields,
            secret,
        })
    }
}

/// Runs the curve's half; a point that is short, off the curve or of small order is refused.
fn agree(
    curve: Curve,
    private: EphemeralPrivateKey,
    theirs: &[u8],
    take: impl FnOnce(&[u8]),
) -> Result<(), Error> {
    if theirs.len() != curve.public_len() || (curve != Curve::X25519 && theirs.first() != Some(&4))
    {
        return Err(failed("the server's public key has the wrong form"));
    }
    let peer = UnparsedPublicKey::new(curve.algorithm(), theirs);
    let bad = || failed("the server's public key is not a valid one");
    agreement::agree_ephemeral(private, peer, bad(), |shared| {
        // RFC 8731 §3: the all-zero secret shows a point of small order.
        if shared.iter().all(|byte| *byte == 0) {
            return Err(bad());
        }
        take(shared);
        Ok(())
    })
}

/// K = SHA256(K_PQ || K_CL), hashed as a string and not as an mpint.
fn hybrid(
    kem: &kem::DecapsulationKey,
    private: EphemeralPrivateKey,
    theirs: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (ciphertext, public) = theirs
        .split_at_checked(MLKEM_CIPHERTEXT_LEN)
        .ok_or_else(|| failed("the server's ML-KEM ciphertext is too short"))?;
    let shared = kem
        .decapsulate(ciphertext.into())
        .map_err(|_| failed("the server's ML-KEM ciphertext is not a valid one"))?;
    let mut secret = Zeroizing::new(Vec::with_capacity(36));
    agree(Curve::X25519, private, public, |classic| {
        secret.string(Hash::Sha256.over(&[shared.as_ref(), classic]).as_slice());
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
    fn both_sides_reach_the_same_secret() {
        for name in [
            "curve25519-sha256",
            "ecdh-sha2-nistp256",
            "ecdh-sha2-nistp521",
        ] {
            let (mut client, _) = Ecdh::start(name).unwrap();
            let (mut server, _) = Ecdh::start(name).unwrap();
            let (to_server, to_client) = (reply(&client.ours), reply(&server.ours));
            let ours = client.on_message(&to_client).unwrap();
            let theirs = server.on_message(&to_server).unwrap();
            assert_eq!(ours.secret, theirs.secret);
            assert!(client.on_message(&to_client).is_err(), "a second reply");
        }
    }
}
