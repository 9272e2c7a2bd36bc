//! Who signs for a key: a key in memory, an agent, anything else that takes its time.

use std::future::Future;
use std::pin::Pin;

use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::ssh_key::{HashAlg, PrivateKey, Signature, private::KeypairData};

/// Why there is no signature.
pub type NotSigned = Box<dyn std::error::Error + Send + Sync>;

/// A signature on its way: the blob of RFC 4253 §6.6, its algorithm's name first.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, NotSigned>> + Send + 'a>>;

/// Signs with one key.
pub trait Signer: Send {
    /// Signs `data` by `algorithm`, which for a certificate is that of its key.
    fn sign<'a>(&'a mut self, algorithm: &'a str, data: &'a [u8]) -> Signing<'a>;
}

/// Signs with a key in memory.
pub struct KeySigner(PrivateKey);

impl KeySigner {
    /// A signer of this key, which must be decrypted already.
    pub fn new(key: PrivateKey) -> Self {
        Self(key)
    }

    fn signature(&self, algorithm: &str, data: &[u8]) -> Result<Vec<u8>, NotSigned> {
        let signature: Signature = match (self.0.key_data(), algorithm) {
            (KeypairData::Rsa(rsa), "rsa-sha2-512") => {
                (rsa, Some(HashAlg::Sha512)).try_sign(data)?
            }
            (KeypairData::Rsa(rsa), "rsa-sha2-256") => {
                (rsa, Some(HashAlg::Sha256)).try_sign(data)?
            }
            (KeypairData::Rsa(_), other) => {
                return Err(format!("an RSA key does not sign by {other}").into());
            }
            (key, _) => key.try_sign(data)?,
        };
        let mut blob = Vec::new();
        signature.encode(&mut blob)?;
        Ok(blob)
    }
}

impl Signer for KeySigner {
    fn sign<'a>(&'a mut self, algorithm: &'a str, data: &'a [u8]) -> Signing<'a> {
        Box::pin(std::future::ready(self.signature(algorithm, data)))
    }
}
