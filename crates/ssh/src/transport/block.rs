//! Block ciphers over the packets of one direction: counter mode (RFC 4344) and CBC (RFC 4253 §6.3).

use aws_lc_rs::cipher::{
    self, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;

use crate::error::Error;

/// A cipher with its position in the stream of one direction. Works on whole blocks only.
pub(crate) enum BlockCipher {
    Ctr { key: EncryptingKey, counter: u128 },
    CbcEncrypt { key: EncryptingKey, iv: Iv },
    CbcDecrypt { key: DecryptingKey, iv: Iv },
}

/// The ciphertext block that the next block is chained to.
#[derive(Clone, Copy)]
pub(crate) enum Iv {
    Aes([u8; 16]),
    Des([u8; 8]),
}

impl Iv {
    fn new(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.len() {
            // Only 3DES has blocks of 8 bytes.
            8 => bytes.try_into().map(Self::Des),
            _ => bytes.try_into().map(Self::Aes),
        }
        .map_err(|_| cipher_error(Unspecified))
    }

    fn len(&self) -> usize {
        match self {
            Self::Aes(_) => 16,
            Self::Des(_) => 8,
        }
    }

    /// Sets the value to the last block of a ciphertext.
    fn chain_to(&mut self, ciphertext: &[u8]) -> Result<(), Error> {
        if let Some(start) = ciphertext.len().checked_sub(self.len()) {
            *self = Self::new(ciphertext.get(start..).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl BlockCipher {
    pub(crate) fn ctr(
        algorithm: &'static cipher::Algorithm,
        key: &[u8],
        iv: &[u8],
    ) -> Result<Self, Error> {
        let key = UnboundCipherKey::new(algorithm, key).map_err(cipher_error)?;
        let counter = iv.try_into().map_err(|_| cipher_error(Unspecified))?;
        Ok(Self::Ctr {
            key: EncryptingKey::ctr(key).map_err(cipher_error)?,
            counter: u128::from_be_bytes(counter),
        })
    }

    pub(crate) fn cbc(
        algorithm: &'static cipher::Algorithm,
        key: &[u8],
        iv: &[u8],
        encrypt: bool,
    ) -> Result<Self, Error> {
        let key = UnboundCipherKey::new(algorithm, key).map_err(cipher_error)?;
        let iv = Iv::new(iv)?;
        Ok(if encrypt {
            Self::CbcEncrypt {
                key: EncryptingKey::cbc(key).map_err(cipher_error)?,
                iv,
            }
        } else {
            Self::CbcDecrypt {
                key: DecryptingKey::cbc(key).map_err(cipher_error)?,
                iv,
            }
        })
    }

    /// Encrypts or decrypts the next bytes of the stream in place.
    pub(crate) fn apply(&mut self, data: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Ctr { key, counter } => {
                // The library takes an IV per call and keeps no state, so that the position in the stream is ours to
                // keep.
                let iv = FixedLength::from(counter.to_be_bytes());
                key.less_safe_encrypt(data, EncryptionContext::Iv128(iv))
                    .map_err(cipher_error)?;
                // The counter continues in the next packet (RFC 4344 §4).
                *counter = counter.wrapping_add((data.len() / 16) as u128);
            }
            Self::CbcEncrypt { key, iv } => {
                let context = match iv {
                    Iv::Aes(iv) => EncryptionContext::Iv128(FixedLength::from(*iv)),
                    Iv::Des(iv) => EncryptionContext::Iv64(FixedLength::from(*iv)),
                };
                // "Less safe" because the caller chooses the IV: RFC 4253 §6.3 chains packets, so that it must be the
                // last block.
                key.less_safe_encrypt(data, context).map_err(cipher_error)?;
                iv.chain_to(data)?;
            }
            Self::CbcDecrypt { key, iv } => {
                let context = match iv {
                    Iv::Aes(iv) => DecryptionContext::Iv128(FixedLength::from(*iv)),
                    Iv::Des(iv) => DecryptionContext::Iv64(FixedLength::from(*iv)),
                };
                // Before decrypting: the last ciphertext block is overwritten in place.
                iv.chain_to(data)?;
                key.decrypt(data, context).map_err(cipher_error)?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_cbc(&self) -> bool {
        !matches!(self, Self::Ctr { .. })
    }

    pub(crate) fn block_len(&self) -> usize {
        match self {
            Self::Ctr { .. } => 16,
            Self::CbcEncrypt { iv, .. } | Self::CbcDecrypt { iv, .. } => iv.len(),
        }
    }
}

/// Maps an error of the library, which reports only lengths that are never passed to it.
pub(crate) fn cipher_error(_: Unspecified) -> Error {
    Error::KexFailed("the cipher could not be used".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = concat!(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    );
    const KEY_128: &str = "2b7e151628aed2a6abf7158809cf4f3c";
    const KEY_192: &str = "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b";
    const KEY_256: &str = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    /// Applies the cipher in two parts of different size, like packets.
    fn apply(cipher: &mut BlockCipher, text: &str) -> Vec<u8> {
        let mut data = hex(text);
        let (head, tail) = data.split_at_mut(16);
        cipher.apply(head).unwrap();
        cipher.apply(tail).unwrap();
        data
    }

    /// NIST SP 800-38A, F.5.
    #[test]
    fn known_answers_of_counter_mode() {
        let iv = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
        for (algorithm, key, answer) in [
            (
                &cipher::AES_128,
                KEY_128,
                concat!(
                    "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff",
                    "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
                ),
            ),
            (
                &cipher::AES_192,
                KEY_192,
                concat!(
                    "1abc932417521ca24f2b0459fe7e6e0b090339ec0aa6faefd5ccc2c6f4ce8e94",
                    "1e36b26bd1ebc670d1bd1d665620abf74f78a7f6d29809585a97daec58c6b050"
                ),
            ),
            (
                &cipher::AES_256,
                KEY_256,
                concat!(
                    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
                    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
                ),
            ),
        ] {
            let mut cipher = BlockCipher::ctr(algorithm, &hex(key), &iv).unwrap();
            assert_eq!(apply(&mut cipher, PLAIN), hex(answer));
        }
    }

    /// NIST SP 800-38A, F.2.
    #[test]
    fn known_answers_of_cbc_mode() {
        let iv = hex("000102030405060708090a0b0c0d0e0f");
        for (algorithm, key, answer) in [
            (
                &cipher::AES_128,
                KEY_128,
                concat!(
                    "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2",
                    "73bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7"
                ),
            ),
            (
                &cipher::AES_192,
                KEY_192,
                concat!(
                    "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a",
                    "571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd"
                ),
            ),
            (
                &cipher::AES_256,
                KEY_256,
                concat!(
                    "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
                    "39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b"
                ),
            ),
        ] {
            let mut seal = BlockCipher::cbc(algorithm, &hex(key), &iv, true).unwrap();
            assert_eq!(apply(&mut seal, PLAIN), hex(answer));
            let mut open = BlockCipher::cbc(algorithm, &hex(key), &iv, false).unwrap();
            assert_eq!(apply(&mut open, answer), hex(PLAIN));
        }
    }
}
