//! Verifies `hostkeys-prove-00@openssh.com` (OpenSSH PROTOCOL §2.5): the server signs once with each host key that it
//! announced.

use bytes::Bytes;

use crate::signature;
use crate::wire::{Malformed, Reader, Writer as _};

/// Whether `proof` holds one valid signature for each of `keys`, in their order.
pub(super) fn is_valid(session_id: &[u8], keys: &[Bytes], proof: &[u8]) -> bool {
    verify_all(session_id, keys, proof).unwrap_or(false)
}

fn verify_all(session_id: &[u8], keys: &[Bytes], proof: &[u8]) -> Result<bool, Malformed> {
    let mut proof = Reader::new(proof);
    for key in keys {
        let signature = proof.string()?;
        let algorithm = Reader::new(signature).utf8()?;
        let mut message = Vec::with_capacity(key.len() + 96);
        message.string("hostkeys-prove-00@openssh.com");
        // Bound to this session: a proof that was recorded elsewhere is worth nothing here.
        message.string(session_id);
        message.string(key);
        // `ssh-rsa` signs with SHA-1, which proves nothing any more.
        if algorithm == "ssh-rsa"
            || signature::verify(algorithm, key, signature, &message, None).is_err()
        {
            return Ok(false);
        }
    }
    // One signature too many is refused: the reply does not fit the request.
    proof.end()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    fn blob(key: &Ed25519KeyPair) -> Bytes {
        let mut blob = Vec::new();
        blob.string("ssh-ed25519");
        blob.string(key.public_key());
        blob.into()
    }

    fn sign(key: &Ed25519KeyPair, session_id: &[u8], signed_key: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        message.string("hostkeys-prove-00@openssh.com");
        message.string(session_id);
        message.string(signed_key);
        let mut signature = Vec::new();
        signature.string("ssh-ed25519");
        signature.string(key.sign(&message));
        let mut framed = Vec::new();
        framed.string(&signature);
        framed
    }

    #[test]
    fn each_key_must_sign_itself_for_this_session() {
        let one = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let two = Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap();
        let keys = [blob(&one), blob(&two)];
        let proof = [sign(&one, b"id", &keys[0]), sign(&two, b"id", &keys[1])].concat();
        assert!(is_valid(b"id", &keys, &proof));
        assert!(!is_valid(b"another", &keys, &proof));
        assert!(
            !is_valid(b"id", &keys[..1], &proof),
            "one signature too many"
        );
        assert!(!is_valid(b"id", &keys, &proof[..proof.len() - 1]));
        assert!(!is_valid(
            b"id",
            &[keys[1].clone(), keys[0].clone()],
            &proof
        ));
        let foreign = [sign(&one, b"id", &keys[0]), sign(&one, b"id", &keys[1])].concat();
        assert!(!is_valid(b"id", &keys, &foreign));
    }
}
