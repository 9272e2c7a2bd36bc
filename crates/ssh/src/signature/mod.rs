//! Public keys as they stand on the wire, and the verification of what they signed: RFC 8709,
//! RFC 5656, RFC 8332, and OpenSSH's security keys (PROTOCOL.u2f) and certificates.

mod certificate;

pub use certificate::{Certificate, CertificateFault};

use aws_lc_rs::signature::{self as lib, RsaPublicKeyComponents, UnparsedPublicKey};

use crate::kex::Hash;
use crate::wire::{Malformed, Reader, Writer};

/// Why a signature or a key was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A field is missing or malformed.
    #[error("the key or its signature is malformed")]
    Malformed,
    /// The key is of another type than was agreed on.
    #[error("the key is of the type {0:?}")]
    Type(String),
    /// The signature is of another algorithm than was agreed on.
    #[error("the signature is of the algorithm {0:?}")]
    Algorithm(String),
    /// An RSA key is too short.
    #[error("the RSA key has {0} bits, fewer than are safe")]
    Short(usize),
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
}

impl From<Malformed> for Refused {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The ending of the certificates' names.
pub(crate) const CERT_SUFFIX: &str = "-cert-v01@openssh.com";

/// A key type's name without the certificate's ending.
pub(crate) fn plain_type(name: &str) -> Option<String> {
    let plain = name.strip_suffix(CERT_SUFFIX)?;
    Some(match plain {
        "sk-ssh-ed25519" | "sk-ecdsa-sha2-nistp256" => format!("{plain}@openssh.com"),
        _ => plain.to_owned(),
    })
}

/// The key type that an algorithm signs with: RSA has one for three.
pub(crate) fn key_type(algorithm: &str) -> &str {
    match algorithm {
        "rsa-sha2-256" | "rsa-sha2-512" => "ssh-rsa",
        other => other,
    }
}

/// Verifies that the key signed the message, by just this algorithm (a plain name).
pub(crate) fn verify(
    algorithm: &str,
    key: &[u8],
    signature: &[u8],
    message: &[u8],
) -> Result<(), Refused> {
    let mut reader = Reader::new(key);
    let name = reader.utf8()?;
    if name != key_type(algorithm) {
        return Err(Refused::Type(name.chars().take(64).collect()));
    }
    let key = PublicKey::read(name, &mut reader)?;
    reader.end()?;
    key.verify(algorithm, signature, message)
}

/// A public key's numbers.
#[derive(Clone, Copy)]
pub(crate) enum PublicKey<'a> {
    Ed25519(&'a [u8]),
    Ecdsa(Curve, &'a [u8]),
    Rsa {
        e: &'a [u8],
        n: &'a [u8],
    },
    SkEd25519 {
        key: &'a [u8],
        application: &'a [u8],
    },
    SkEcdsa {
        point: &'a [u8],
        application: &'a [u8],
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn verification(self) -> &'static lib::EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &lib::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &lib::ECDSA_P384_SHA384_FIXED,
            Self::P521 => &lib::ECDSA_P521_SHA512_FIXED,
        }
    }

    fn scalar_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

impl<'a> PublicKey<'a> {
    /// Reads what follows a plain type's name.
    pub(crate) fn read(name: &str, reader: &mut Reader<'a>) -> Result<Self, Refused> {
        let ecdsa = |curve, label: &str, reader: &mut Reader<'a>| {
            if reader.utf8()? == label {
                Ok(Self::Ecdsa(curve, reader.string()?))
            } else {
                Err(Refused::Malformed)
            }
        };
        match name {
            "ssh-ed25519" => Ok(Self::Ed25519(reader.string()?)),
            "ecdsa-sha2-nistp256" => ecdsa(Curve::P256, "nistp256", reader),
            "ecdsa-sha2-nistp384" => ecdsa(Curve::P384, "nistp384", reader),
            "ecdsa-sha2-nistp521" => ecdsa(Curve::P521, "nistp521", reader),
            "ssh-rsa" => Ok(Self::Rsa {
                e: reader.mpint()?,
                n: reader.mpint()?,
            }),
            "sk-ssh-ed25519@openssh.com" => Ok(Self::SkEd25519 {
                key: reader.string()?,
                application: reader.string()?,
            }),
            "sk-ecdsa-sha2-nistp256@openssh.com" => {
                if reader.utf8()? != "nistp256" {
                    return Err(Refused::Malformed);
                }
                Ok(Self::SkEcdsa {
                    point: reader.string()?,
                    application: reader.string()?,
                })
            }
            other => Err(Refused::Type(other.chars().take(64).collect())),
        }
    }

    /// Verifies a signature blob, by just this algorithm.
    pub(crate) fn verify(
        &self,
        algorithm: &str,
        signature: &[u8],
        message: &[u8],
    ) -> Result<(), Refused> {
        let mut reader = Reader::new(signature);
        let format = reader.utf8()?;
        if format != algorithm {
            return Err(Refused::Algorithm(format.chars().take(64).collect()));
        }
        let bytes = reader.string()?;
        match *self {
            Self::Ed25519(key) => {
                reader.end()?;
                ed25519(key, bytes, message)
            }
            Self::Ecdsa(curve, point) => {
                reader.end()?;
                ecdsa(curve, point, bytes, message)
            }
            Self::Rsa { e, n } => {
                reader.end()?;
                rsa(algorithm, e, n, bytes, message)
            }
            Self::SkEd25519 { key, application } => {
                let signed = sk_message(&mut reader, application, message)?;
                ed25519(key, bytes, &signed)
            }
            Self::SkEcdsa { point, application } => {
                let signed = sk_message(&mut reader, application, message)?;
                ecdsa(Curve::P256, point, bytes, &signed)
            }
        }
    }
}

fn ed25519(key: &[u8], signature: &[u8], message: &[u8]) -> Result<(), Refused> {
    UnparsedPublicKey::new(&lib::ED25519, key)
        .verify(message, signature)
        .map_err(|_| Refused::Signature)
}

fn ecdsa(curve: Curve, point: &[u8], signature: &[u8], message: &[u8]) -> Result<(), Refused> {
    let mut reader = Reader::new(signature);
    let mut fixed = Vec::with_capacity(2 * curve.scalar_len());
    for _ in 0..2 {
        let number = reader.mpint()?;
        let zeros = curve
            .scalar_len()
            .checked_sub(number.len())
            .ok_or(Refused::Signature)?;
        fixed.resize(fixed.len() + zeros, 0);
        fixed.raw(number);
    }
    reader.end()?;
    UnparsedPublicKey::new(curve.verification(), point)
        .verify(message, &fixed)
        .map_err(|_| Refused::Signature)
}

fn rsa(
    algorithm: &str,
    e: &[u8],
    n: &[u8],
    signature: &[u8],
    message: &[u8],
) -> Result<(), Refused> {
    let (parameters, shortest) = match algorithm {
        "rsa-sha2-512" => (&lib::RSA_PKCS1_2048_8192_SHA512, 2048),
        "rsa-sha2-256" => (&lib::RSA_PKCS1_2048_8192_SHA256, 2048),
        // Who names this algorithm has to do with machines of that time.
        _ => (&lib::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, 1024),
    };
    let bits = n.len().saturating_mul(8);
    if bits < shortest {
        return Err(Refused::Short(bits));
    }
    // Some signers leave leading zeros out.
    let zeros = n.len().checked_sub(signature.len());
    let mut padded = vec![0; zeros.ok_or(Refused::Signature)?];
    padded.raw(signature);
    RsaPublicKeyComponents { n, e }
        .verify(parameters, message, &padded)
        .map_err(|_| Refused::Signature)
}

/// What a security key signs in the place of the message.
fn sk_message(
    reader: &mut Reader<'_>,
    application: &[u8],
    message: &[u8],
) -> Result<Vec<u8>, Refused> {
    let (flags, counter) = (reader.u8()?, reader.u32()?);
    reader.end()?;
    let mut signed = Hash::Sha256.over(&[application]).to_vec();
    signed.u8(flags);
    signed.u32(counter);
    signed.raw(&Hash::Sha256.over(&[message]));
    Ok(signed)
}

#[cfg(test)]
mod tests;
