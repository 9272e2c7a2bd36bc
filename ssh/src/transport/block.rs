//! Block ciphers as streams over one direction's packets: counter mode (RFC 4344) and CBC.

use aws_lc_rs::cipher::{
    self, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;

use crate::error::Error;

/// A cipher at its place in one direction's stream; always given whole blocks.
pub(super) enum BlockCipher {
    Ctr { key: EncryptingKey, counter: u128 },
    CbcEncrypt { key: EncryptingKey, iv: Iv },
    CbcDecrypt { key: DecryptingKey, iv: Iv },
}

/// The block that the next one is chained to.
#[derive(Clone, Copy)]
pub(super) enum Iv {
    Aes([u8; 16]),
    Des([u8; 8]),
}

impl Iv {
    fn new(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.len() {
            8 => bytes.try_into().map(Self::Des),
            _ => bytes.try_into().map(Self::Aes),
        }
        .map_err(|_| broken(Unspecified))
    }

    fn len(&self) -> usize {
        match self {
            Self::Aes(_) => 16,
            Self::Des(_) => 8,
        }
    }

    /// Chains to the last block of a ciphertext.
    fn follow(&mut self, ciphertext: &[u8]) -> Result<(), Error> {
        if let Some(start) = ciphertext.len().checked_sub(self.len()) {
            *self = Self::new(ciphertext.get(start..).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl BlockCipher {
    pub(super) fn ctr(
        algorithm: &'static cipher::Algorithm,
        key: &[u8],
        iv: &[u8],
    ) -> Result<Self, Error> {
        let key = UnboundCipherKey::new(algorithm, key).map_err(broken)?;
        let counter = iv.try_into().map_err(|_| broken(Unspecified))?;
        Ok(Self::Ctr {
            key: EncryptingKey::ctr(key).map_err(broken)?,
            counter: u128::from_be_bytes(counter),
        })
    }

    pub(super) fn cbc(
        algorithm: &'static cipher::Algorithm,
        key: &[u8],
        iv: &[u8],
        encrypt: bool,
    ) -> Result<Self, Error> {
        let key = UnboundCipherKey::new(algorithm, key).map_err(broken)?;
        let iv = Iv::new(iv)?;
        Ok(if encrypt {
            Self::CbcEncrypt {
                key: EncryptingKey::cbc(key).map_err(broken)?,
                iv,
            }
        } else {
            Self::CbcDecrypt {
                key: DecryptingKey::cbc(key).map_err(broken)?,
                iv,
            }
        })
    }

    /// Encrypts, or decrypts, what comes next in the stream.
    pub(super) fn apply(&mut self, data: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Ctr { key, counter } => {
                let iv = FixedLength::from(counter.to_be_bytes());
                key.less_safe_encrypt(data, EncryptionContext::Iv128(iv))
                    .map_err(broken)?;
                *counter = counter.wrapping_add((data.len() / 16) as u128);
            }
            Self::CbcEncrypt { key, iv } => {
                let context = match iv {
                    Iv::Aes(iv) => EncryptionContext::Iv128(FixedLength::from(*iv)),
                    Iv::Des(iv) => EncryptionContext::Iv64(FixedLength::from(*iv)),
                };
                key.less_safe_encrypt(data, context).map_err(broken)?;
                iv.follow(data)?;
            }
            Self::CbcDecrypt { key, iv } => {
                let context = match iv {
                    Iv::Aes(iv) => DecryptionContext::Iv128(FixedLength::from(*iv)),
                    Iv::Des(iv) => DecryptionContext::Iv64(FixedLength::from(*iv)),
                };
                iv.follow(data)?;
                key.decrypt(data, context).map_err(broken)?;
            }
        }
        Ok(())
    }

    pub(super) fn is_cbc(&self) -> bool {
        !matches!(self, Self::Ctr { .. })
    }

    pub(super) fn block_len(&self) -> usize {
        match self {
            Self::Ctr { .. } => 16,
            Self::CbcEncrypt { iv, .. } | Self::CbcDecrypt { iv, .. } => iv.len(),
        }
    }
}

/// The library refuses only lengths that we never give it.
pub(super) fn broken(_: Unspecified) -> Error {
    Error::KexFailed("the cipher could not be used".to_owned())
}
