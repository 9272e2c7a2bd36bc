//! Signs with a decrypted private key.

use signature::Signer as _;
use ssh_key::encoding::Encode as _;
use ssh_key::private::KeypairData;
use ssh_key::{HashAlg, PrivateKey, Signature};

use crate::client::{SignFuture, Signer, SignerError};

/// Signs with a private key in memory.
pub struct KeySigner(PrivateKey);

impl KeySigner {
    /// A signer for `key`, which must be decrypted.
    pub fn new(key: PrivateKey) -> Self {
        Self(key)
    }

    fn signature(&self, algorithm: &str, data: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signature: Signature = match (self.0.key_data(), algorithm) {
            (KeypairData::Rsa(rsa), "rsa-sha2-512") => {
                (rsa, Some(HashAlg::Sha512)).try_sign(data)?
            }
            (KeypairData::Rsa(rsa), "rsa-sha2-256") => {
                (rsa, Some(HashAlg::Sha256)).try_sign(data)?
            }
            (KeypairData::Rsa(_), other) => {
                return Err(format!("an RSA key does not sign with {other}").into());
            }
            (key, _) => key.try_sign(data)?,
        };
        let mut blob = Vec::new();
        signature.encode(&mut blob)?;
        Ok(blob)
    }
}

impl Signer for KeySigner {
    fn sign<'a>(&'a mut self, algorithm: &'a str, data: &'a [u8]) -> SignFuture<'a> {
        Box::pin(std::future::ready(self.signature(algorithm, data)))
    }
}
