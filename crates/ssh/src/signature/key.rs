//! Public keys in wire format and the verification of their signatures: RFC 8709 (Ed25519), RFC 5656 (ECDSA), RFC 8332
//! (RSA) and OpenSSH's security keys (PROTOCOL.u2f).

use aws_lc_rs::signature::{self as lib, RsaPublicKeyComponents, UnparsedPublicKey};

use crate::kex::HashAlgorithm;
use crate::wire::{Malformed, Reader, Writer};

/// Why a key or a signature was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A field is missing or malformed.
    #[error("the key or its signature is malformed")]
    Malformed,
    /// The key has another type than was negotiated; names it.
    #[error("the key is of the type {0:?}")]
    KeyType(String),
    /// The signature has another algorithm than was negotiated; names it.
    #[error("the signature is of the algorithm {0:?}")]
    Algorithm(String),
    /// The RSA key has fewer bits than are accepted.
    #[error("the RSA key has {bits} bits; at least {required} are required")]
    RsaTooShort {
        /// Its length.
        bits: usize,
        /// The least that is accepted.
        required: usize,
    },
    /// The signature does not match the key and the message.
    #[error("the signature is wrong")]
    Invalid,
}

impl From<Malformed> for SignatureError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Suffix of the type and algorithm names of OpenSSH certificates (PROTOCOL.certkeys).
pub(crate) const CERT_SUFFIX: &str = "-cert-v01@openssh.com";

/// The type of the key in a certificate of type `name`. `None` if `name` is not a certificate type.
pub(crate) fn plain_type(name: &str) -> Option<String> {
    let plain = name.strip_suffix(CERT_SUFFIX)?;
    Some(match plain {
        // The plain security key types have a vendor suffix of their own.
        "sk-ssh-ed25519" | "sk-ecdsa-sha2-nistp256" => format!("{plain}@openssh.com"),
        _ => plain.to_owned(),
    })
}

/// The key type of a signature algorithm: RSA keys have three algorithms, all others one.
pub(crate) fn key_type(algorithm: &str) -> &str {
    match algorithm {
        "rsa-sha2-256" | "rsa-sha2-512" => "ssh-rsa",
        other => other,
    }
}

/// The fields of a public key, borrowed from its blob.
#[derive(Clone, Copy)]
pub(crate) enum KeyFields<'a> {
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

impl<'a> KeyFields<'a> {
    /// Reads the fields that follow the name of a plain key type.
    pub(crate) fn read(name: &str, reader: &mut Reader<'a>) -> Result<Self, SignatureError> {
        let ecdsa = |curve, label: &str, reader: &mut Reader<'a>| {
            // RFC 5656 §3.1: the curve is in the blob twice, and both must agree.
            if reader.utf8()? == label {
                Ok(Self::Ecdsa(curve, reader.string()?))
            } else {
                Err(SignatureError::Malformed)
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
                    return Err(SignatureError::Malformed);
                }
                Ok(Self::SkEcdsa {
                    point: reader.string()?,
                    application: reader.string()?,
                })
            }
            other => Err(SignatureError::KeyType(other.chars().take(64).collect())),
        }
    }

    /// Verifies a signature blob. A blob with another algorithm is rejected, so that the server cannot downgrade it.
    pub(crate) fn verify(
        &self,
        algorithm: &str,
        signature: &[u8],
        message: &[u8],
        min_rsa_bits: Option<usize>,
    ) -> Result<(), SignatureError> {
        let mut reader = Reader::new(signature);
        let format = reader.utf8()?;
        if format != algorithm {
            return Err(SignatureError::Algorithm(format.chars().take(64).collect()));
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
                rsa(algorithm, e, n, bytes, message, min_rsa_bits)
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

fn ed25519(key: &[u8], signature: &[u8], message: &[u8]) -> Result<(), SignatureError> {
    UnparsedPublicKey::new(&lib::ED25519, key)
        .verify(message, signature)
        .map_err(|_| SignatureError::Invalid)
}

fn ecdsa(
    curve: Curve,
    point: &[u8],
    signature: &[u8],
    message: &[u8],
) -> Result<(), SignatureError> {
    let mut reader = Reader::new(signature);
    let mut fixed = Vec::with_capacity(2 * curve.scalar_len());
    // The library takes two numbers of fixed length; on the wire they are mpints of any length.
    for _ in 0..2 {
        let number = reader.mpint()?;
        let zeros = curve
            .scalar_len()
            .checked_sub(number.len())
            .ok_or(SignatureError::Invalid)?;
        fixed.resize(fixed.len() + zeros, 0);
        fixed.raw(number);
    }
    reader.end()?;
    UnparsedPublicKey::new(curve.verification(), point)
        .verify(message, &fixed)
        .map_err(|_| SignatureError::Invalid)
}

fn rsa(
    algorithm: &str,
    e: &[u8],
    n: &[u8],
    signature: &[u8],
    message: &[u8],
    min_rsa_bits: Option<usize>,
) -> Result<(), SignatureError> {
    // The library's own limit is the lowest that it has: the limit that counts is below.
    let (parameters, default_min) = match algorithm {
        "rsa-sha2-512" => (&lib::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY, 2048),
        "rsa-sha2-256" => (&lib::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, 2048),
        // ssh-rsa is only offered if the configuration names it, for old servers: their keys are short, too.
        _ => (&lib::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, 1024),
    };
    let required = min_rsa_bits.unwrap_or(default_min);
    let bits = n.len().saturating_mul(8);
    if bits < required {
        return Err(SignatureError::RsaTooShort { bits, required });
    }
    // Some signers omit leading zeros; the library wants the full length.
    let zeros = n.len().checked_sub(signature.len());
    let mut padded = vec![0; zeros.ok_or(SignatureError::Invalid)?];
    padded.raw(signature);
    RsaPublicKeyComponents { n, e }
        .verify(parameters, message, &padded)
        .map_err(|_| SignatureError::Invalid)
}

/// The data that a security key signs instead of the message (PROTOCOL.u2f).
fn sk_message(
    reader: &mut Reader<'_>,
    application: &[u8],
    message: &[u8],
) -> Result<Vec<u8>, SignatureError> {
    let (flags, counter) = (reader.u8()?, reader.u32()?);
    reader.end()?;
    let mut signed = HashAlgorithm::Sha256.digest(&[application]).to_vec();
    signed.u8(flags);
    signed.u32(counter);
    signed.raw(&HashAlgorithm::Sha256.digest(&[message]));
    Ok(signed)
}
