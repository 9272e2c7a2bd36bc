//! Signatures of user keys (RFC 4253 §6.6, RFC 5656 §3.1.2, RFC 8332, RFC 8709).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};
use rsa::pkcs1::EncodeRsaPrivateKey as _;
use rsa::pkcs1v15::SigningKey;
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
use sha1::Sha1;
use ssh_key::PrivateKey;
use ssh_key::private::{EcdsaKeypair, KeypairData, RsaKeypair};

use crate::wire::{put_mpint, put_string};

/// Signs `data` with `key` and returns the signature as SSH sends it: algorithm name, then the signature itself.
///
/// `algorithm` is the name that was offered to the server; it chooses the hash of an RSA key (`rsa-sha2-512`,
/// `rsa-sha2-256`, otherwise SHA-1 as `ssh-rsa`, also for certificates) and is ignored for other types.
///
/// # Errors
/// A text if the key is encrypted, inconsistent, or of a type that a file cannot sign with.
pub fn sign(key: &PrivateKey, data: &[u8], algorithm: &str) -> Result<Vec<u8>, String> {
    match key.key_data() {
        KeypairData::Ed25519(pair) => {
            let pair = Ed25519KeyPair::from_seed_and_public_key(
                pair.private.as_ref(),
                pair.public.as_ref(),
            )
            .map_err(|_| inconsistent())?;
            Ok(encode("ssh-ed25519", pair.sign(data).as_ref()))
        }
        KeypairData::Ecdsa(pair) => sign_ecdsa(pair, data),
        KeypairData::Rsa(pair) => sign_rsa(pair, data, algorithm),
        other => Err(match other.algorithm() {
            Ok(kind) => format!("a file with a key of type {kind} cannot sign"),
            Err(_) => "the key is encrypted".to_owned(),
        }),
    }
}

fn inconsistent() -> String {
    "the key cannot sign: its private and its public part do not belong together".to_owned()
}

fn failed() -> String {
    "the key cannot sign: the signature failed".to_owned()
}

fn encode(algorithm: &str, signature: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(8 + algorithm.len() + signature.len());
    put_string(&mut encoded, algorithm.as_bytes());
    put_string(&mut encoded, signature);
    encoded
}

fn sign_ecdsa(pair: &EcdsaKeypair, data: &[u8]) -> Result<Vec<u8>, String> {
    let (algorithm, name): (&'static EcdsaSigningAlgorithm, _) = match pair {
        EcdsaKeypair::NistP256 { .. } => (&ECDSA_P256_SHA256_FIXED_SIGNING, "ecdsa-sha2-nistp256"),
        EcdsaKeypair::NistP384 { .. } => (&ECDSA_P384_SHA384_FIXED_SIGNING, "ecdsa-sha2-nistp384"),
        EcdsaKeypair::NistP521 { .. } => (&ECDSA_P521_SHA512_FIXED_SIGNING, "ecdsa-sha2-nistp521"),
    };
    let pair = EcdsaKeyPair::from_private_key_and_public_key(
        algorithm,
        pair.private_key_bytes(),
        pair.public_key_bytes(),
    )
    .map_err(|_| inconsistent())?;
    let signature = pair
        .sign(&SystemRandom::new(), data)
        .map_err(|_| failed())?;
    let signature = signature.as_ref();
    // RFC 5656 §3.1.2: two mpints, where the library returns two numbers of equal length.
    let (r, s) = signature.split_at(signature.len() / 2);
    let mut numbers = Vec::with_capacity(signature.len() + 10);
    put_mpint(&mut numbers, r);
    put_mpint(&mut numbers, s);
    Ok(encode(name, &numbers))
}

fn sign_rsa(pair: &RsaKeypair, data: &[u8], algorithm: &str) -> Result<Vec<u8>, String> {
    let key = rsa::RsaPrivateKey::try_from(pair).map_err(|_| inconsistent())?;
    let (name, padding): (_, Option<&'static dyn RsaEncoding>) =
        if algorithm.starts_with("rsa-sha2-512") {
            ("rsa-sha2-512", Some(&RSA_PKCS1_SHA512))
        } else if algorithm.starts_with("rsa-sha2-256") {
            ("rsa-sha2-256", Some(&RSA_PKCS1_SHA256))
        } else {
            ("ssh-rsa", None)
        };
    let der = key.to_pkcs1_der().map_err(|_| inconsistent())?;
    if let Some(padding) = padding
        && let Ok(pair) = RsaKeyPair::from_der(der.as_bytes())
    {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(padding, &SystemRandom::new(), data, &mut signature)
            .map_err(|_| failed())?;
        return Ok(encode(name, &signature));
    }
    // What aws-lc-rs does not sign: SHA-1, which servers before OpenSSH 7.2 need, and keys below 2048 bits. The crate
    // rsa leaks timing without blinding (RUSTSEC-2023-0071), so only its randomised, blinded signatures are used.
    let rng = &mut rand::rng();
    let signature = match name {
        "rsa-sha2-512" => SigningKey::<sha2::Sha512>::new(key).try_sign_with_rng(rng, data),
        "rsa-sha2-256" => SigningKey::<sha2::Sha256>::new(key).try_sign_with_rng(rng, data),
        _ => SigningKey::<Sha1>::new(key).try_sign_with_rng(rng, data),
    };
    Ok(encode(name, &signature.map_err(|_| failed())?.to_vec()))
}

#[cfg(test)]
mod tests;
