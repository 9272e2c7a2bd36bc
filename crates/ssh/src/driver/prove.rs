//! Whether a server holds the host keys that it tells of (OpenSSH PROTOCOL §2.5): it signs with each.

use bytes::Bytes;

use crate::signature;
use crate::wire::{Malformed, Reader, Writer as _};

/// Whether the proof holds for every one of the keys, in their order.
pub(crate) fn holds(session_id: &[u8], keys: &[Bytes], proof: &[u8]) -> bool {
    check(session_id, keys, proof).unwrap_or(false)
}

fn check(session_id: &[u8], keys: &[Bytes], proof: &[u8]) -> Result<bool, Malformed> {
    let mut proof = Reader::new(proof);
    for key in keys {
        let signed = proof.string()?;
        let algorithm = Reader::new(signed).utf8()?;
        let mut message = Vec::with_capacity(key.len() + 96);
        message.string("hostkeys-prove-00@openssh.com");
        message.string(session_id);
        message.string(key);
        // By SHA-1 nothing is proven.
        if algorithm == "ssh-rsa" || signature::verify(algorithm, key, signed, &message).is_err() {
            return Ok(false);
        }
    }
    proof.end()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use russh::keys::signature::Signer as _;
    use russh::keys::ssh_encoding::Encode as _;
    use russh::keys::ssh_key::{Algorithm, PrivateKey, Signature};

    use super::*;

    fn sign(key: &PrivateKey, session: &[u8], about: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        message.string("hostkeys-prove-00@openssh.com");
        message.string(session);
        message.string(about);
        let signature: Signature = key.try_sign(&message).unwrap();
        let mut blob = Vec::new();
        signature.encode(&mut blob).unwrap();
        let mut framed = Vec::new();
        framed.string(&blob);
        framed
    }

    #[test]
    fn only_what_each_key_has_signed_for_this_session() {
        let mut rng = russh::keys::key::safe_rng();
        let (one, two) = (
            PrivateKey::random(&mut rng, Algorithm::Ed25519).unwrap(),
            PrivateKey::random(&mut rng, Algorithm::Ed25519).unwrap(),
        );
        let blob = |key: &PrivateKey| Bytes::from(key.public_key().to_bytes().unwrap());
        let keys = [blob(&one), blob(&two)];
        let proof = [sign(&one, b"id", &keys[0]), sign(&two, b"id", &keys[1])].concat();
        assert!(holds(b"id", &keys, &proof));
        assert!(!holds(b"another", &keys, &proof));
        assert!(!holds(b"id", &keys[..1], &proof), "one too many");
        assert!(!holds(b"id", &keys, &proof[..proof.len() - 1]));
        assert!(!holds(b"id", &[keys[1].clone(), keys[0].clone()], &proof));
        let stolen = [sign(&one, b"id", &keys[0]), sign(&one, b"id", &keys[1])].concat();
        assert!(!holds(b"id", &keys, &stolen));
    }
}
