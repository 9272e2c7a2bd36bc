//! Every signature is verified by another implementation.

use rsa::signature::Verifier as _;
use ssh_key::{Algorithm, EcdsaCurve, Signature};

use super::*;

const RSA_1024: &str = include_str!("rsa_1024.pem");

#[track_caller]
fn assert_verifies(key: &PrivateKey, algorithm: &str, expected: &str) {
    let encoded = sign(key, b"data", algorithm).unwrap();
    let signature = Signature::try_from(&encoded[..]).unwrap();
    assert_eq!(signature.algorithm().as_str(), expected);
    let public = key.public_key().key_data();
    public.verify(b"data", &signature).unwrap();
    assert!(public.verify(b"other", &signature).is_err());
}

#[test]
fn each_key_type_signs_with_its_algorithm() {
    let rng = &mut rand::rng();
    for (curve, name) in [
        (EcdsaCurve::NistP256, "ecdsa-sha2-nistp256"),
        (EcdsaCurve::NistP384, "ecdsa-sha2-nistp384"),
        (EcdsaCurve::NistP521, "ecdsa-sha2-nistp521"),
    ] {
        let key = PrivateKey::random(rng, Algorithm::Ecdsa { curve }).unwrap();
        // An mpint is shorter or longer depending on the first bits of r and s.
        for _ in 0..64 {
            assert_verifies(&key, name, name);
        }
    }
    let key = PrivateKey::random(rng, Algorithm::Ed25519).unwrap();
    assert_verifies(&key, "ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519");
}

#[test]
fn an_rsa_key_of_any_length_signs_with_the_offered_hash() {
    let short = crate::private_key::inspect(RSA_1024).unwrap().key.unwrap();
    let long = PrivateKey::random(&mut rand::rng(), Algorithm::Rsa { hash: None }).unwrap();
    for key in [&short, &long] {
        assert_verifies(key, "rsa-sha2-512", "rsa-sha2-512");
        assert_verifies(key, "rsa-sha2-256-cert-v01@openssh.com", "rsa-sha2-256");
        // ssh-key does not verify SHA-1; the legacy sshd of the integration tests does.
        let encoded = sign(key, b"data", "ssh-rsa").unwrap();
        assert_eq!(crate::wire::name(&encoded), Some("ssh-rsa"));
    }
}
