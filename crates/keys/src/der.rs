//! Private keys in DER: PKCS#1 (RFC 8017), SEC 1 (RFC 5915) and PKCS#8 (RFC 5958, RFC 8410). Libraries decode the
//! structures; this module only dispatches and builds the key pair.

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode as _, asn1::AnyRef};
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use sec1::{EcParameters, EcPrivateKey};
use ssh_key::PrivateKey;
use ssh_key::encoding::Decode as _;
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData, RsaKeypair};
use ssh_key::public::Ed25519PublicKey;
use zeroize::Zeroizing;

use crate::error::NO_DSA;
use crate::wire::put_string;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const DSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// Why DER is not a usable key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DerError {
    /// The structure is not the expected one. Decryption with a wrong passphrase looks like this too.
    Malformed,
    /// The structure is sound, but its kind of key cannot be used; the text says why.
    Unsupported(String),
}

/// Decodes an RSAPrivateKey (RFC 8017 A.1.2).
pub(crate) fn pkcs1(der: &[u8]) -> Result<PrivateKey, DerError> {
    let key = rsa::RsaPrivateKey::from_pkcs1_der(der).map_err(|_| DerError::Malformed)?;
    RsaKeypair::try_from(&key)
        .map(PrivateKey::from)
        .map_err(|_| DerError::Malformed)
}

/// Decodes an ECPrivateKey (RFC 5915 §3) that names its curve, or PKCS#8.
pub(crate) fn sec1_or_pkcs8(der: &[u8]) -> Result<PrivateKey, DerError> {
    if let Ok(info) = PrivateKeyInfoRef::try_from(der) {
        return pkcs8(&info);
    }
    let key = EcPrivateKey::from_der(der).map_err(|_| DerError::Malformed)?;
    let Some(EcParameters::NamedCurve(curve)) = key.parameters else {
        return Err(DerError::Malformed);
    };
    ecdsa(&key, curve)
}

fn pkcs8(info: &PrivateKeyInfoRef<'_>) -> Result<PrivateKey, DerError> {
    let content = info.private_key.as_bytes();
    match info.algorithm.oid {
        RSA => pkcs1(content),
        EC => {
            let curve = info.algorithm.parameters.as_ref();
            let curve = curve.and_then(|curve: &AnyRef<'_>| curve.decode_as().ok());
            let key = EcPrivateKey::from_der(content).map_err(|_| DerError::Malformed)?;
            ecdsa(&key, curve.ok_or(DerError::Malformed)?)
        }
        ED25519 => {
            let seed = <&OctetStringRef>::from_der(content).map_err(|_| DerError::Malformed)?;
            ed25519(seed.as_bytes())
        }
        DSA => Err(DerError::Unsupported(NO_DSA.into())),
        oid => Err(unsupported(&oid)),
    }
}

fn unsupported(oid: &ObjectIdentifier) -> DerError {
    DerError::Unsupported(format!(
        "keys of its type or curve ({oid}) are not supported (`ssh-keygen -t ed25519` creates one that is)"
    ))
}

fn ed25519(seed: &[u8]) -> Result<PrivateKey, DerError> {
    let private = Ed25519PrivateKey::try_from(seed).map_err(|_| DerError::Malformed)?;
    // The public half in the file is optional: it is computed.
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| DerError::Malformed)?;
    let public = Ed25519PublicKey::try_from(pair.public_key().as_ref());
    let public = public.map_err(|_| DerError::Malformed)?;
    Ok(PrivateKey::from(Ed25519Keypair { public, private }))
}

fn ecdsa(key: &EcPrivateKey<'_>, curve: ObjectIdentifier) -> Result<PrivateKey, DerError> {
    let (name, algorithm, size) = match curve {
        P256 => ("nistp256", &ECDH_P256, 32),
        P384 => ("nistp384", &ECDH_P384, 48),
        P521 => ("nistp521", &ECDH_P521, 66_usize),
        oid => return Err(unsupported(&oid)),
    };
    // Some writers drop leading zeros of the number.
    let missing = size.checked_sub(key.private_key.len());
    let mut number = Zeroizing::new(vec![0; missing.ok_or(DerError::Malformed)?]);
    number.reserve_exact(key.private_key.len());
    number.extend(key.private_key);
    // The public half in the file is optional, and may be compressed: it is computed.
    let private = agreement::PrivateKey::from_private_key(algorithm, &number)
        .map_err(|_| DerError::Malformed)?;
    let public = private
        .compute_public_key()
        .map_err(|_| DerError::Malformed)?;
    let mut wire = Zeroizing::new(Vec::with_capacity(512));
    put_string(&mut wire, format!("ecdsa-sha2-{name}").as_bytes());
    put_string(&mut wire, name.as_bytes());
    put_string(&mut wire, public.as_ref());
    put_string(&mut wire, &number);
    let data = KeypairData::decode(&mut wire.as_slice()).map_err(|_| DerError::Malformed)?;
    PrivateKey::new(data, "").map_err(|_| DerError::Malformed)
}
