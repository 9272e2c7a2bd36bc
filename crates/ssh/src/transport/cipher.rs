//! The ciphers by name, and the keys that are derived for them (RFC 4253 §7.2): AES-GCM (RFC 5647 with OpenSSH's
//! negotiation), chacha20-poly1305@openssh.com, and block ciphers with a MAC. `sealing` works with the keys.

use aws_lc_rs::aead::chacha20_poly1305_openssh as chacha;
use aws_lc_rs::aead::{self, LessSafeKey, UnboundKey};
use aws_lc_rs::cipher;

use super::block::{BlockCipher, cipher_error};
use super::mac::{Mac, MacSpec};
use super::sealing::{Gcm, Opener, Sealer};
use crate::error::Error;
use crate::kex::KeyMaterial;

/// A cipher by name, without keys.
#[derive(Clone, Copy)]
pub(crate) struct CipherSpec {
    kind: CipherKind,
    key_len: usize,
    iv_len: usize,
}

#[derive(Clone, Copy)]
enum CipherKind {
    Gcm(&'static aead::Algorithm),
    ChaCha,
    Ctr(&'static cipher::Algorithm),
    Cbc(&'static cipher::Algorithm),
}

impl CipherSpec {
    pub(crate) fn find(name: &str) -> Option<Self> {
        let (kind, key_len, iv_len) = match name {
            "aes128-gcm@openssh.com" => (CipherKind::Gcm(&aead::AES_128_GCM), 16, 12),
            "aes256-gcm@openssh.com" => (CipherKind::Gcm(&aead::AES_256_GCM), 32, 12),
            // No IV: the nonce is the packet's sequence number. The key is two keys, for the length and for the rest.
            "chacha20-poly1305@openssh.com" => (CipherKind::ChaCha, chacha::KEY_LEN, 0),
            "aes128-ctr" => (CipherKind::Ctr(&cipher::AES_128), 16, 16),
            "aes192-ctr" => (CipherKind::Ctr(&cipher::AES_192), 24, 16),
            "aes256-ctr" => (CipherKind::Ctr(&cipher::AES_256), 32, 16),
            "aes128-cbc" => (CipherKind::Cbc(&cipher::AES_128), 16, 16),
            "aes192-cbc" => (CipherKind::Cbc(&cipher::AES_192), 24, 16),
            "aes256-cbc" => (CipherKind::Cbc(&cipher::AES_256), 32, 16),
            "3des-cbc" => (CipherKind::Cbc(triple_des()), 24, 8),
            _ => return None,
        };
        Some(Self {
            kind,
            key_len,
            iv_len,
        })
    }

    /// Whether the cipher authenticates by itself, so that no MAC is negotiated.
    pub(crate) fn is_aead(&self) -> bool {
        matches!(self.kind, CipherKind::Gcm(_) | CipherKind::ChaCha)
    }

    /// Whether it is open to prefix truncation (Terrapin, CVE-2023-48795) without strict key exchange: ChaCha20
    /// always, a CBC cipher with an encrypt-then-MAC.
    pub(crate) fn is_terrapin_vulnerable(&self, mac: Option<&str>) -> bool {
        match self.kind {
            CipherKind::ChaCha => true,
            CipherKind::Cbc(_) => mac.is_some_and(|mac| mac.contains("-etm@")),
            _ => false,
        }
    }

    /// Bytes that one key may protect: RFC 4344 §3.2 for 128-bit blocks, 1 GiB for the 64-bit blocks of 3DES.
    pub(crate) fn byte_limit(&self) -> u64 {
        // RFC 4344 §3.2 allows 2^(L/4) blocks of L bits: with L = 128 these are 2^36 bytes, and the limit is half of
        // that. For 3DES it is the 1 GiB of RFC 4253 §9: blocks of 64 bits collide after about 2^32 of them (Sweet32,
        // CVE-2016-2183).
        if self.iv_len == 8 { 1 << 30 } else { 1 << 35 }
    }

    fn block(
        &self,
        algorithm: &'static cipher::Algorithm,
        material: &KeyMaterial,
        direction: Direction,
        encrypt: bool,
    ) -> Result<BlockCipher, Error> {
        let key = material.key(direction.key_letter(), self.key_len);
        let iv = material.key(direction.iv_letter(), self.iv_len);
        match self.kind {
            CipherKind::Cbc(_) => BlockCipher::cbc(algorithm, &key, &iv, encrypt),
            _ => BlockCipher::ctr(algorithm, &key, &iv),
        }
    }

    fn gcm(
        &self,
        algorithm: &'static aead::Algorithm,
        material: &KeyMaterial,
        direction: Direction,
    ) -> Result<Gcm, Error> {
        let key = material.key(direction.key_letter(), self.key_len);
        let iv = material.key(direction.iv_letter(), self.iv_len);
        let key = UnboundKey::new(algorithm, &key).map_err(cipher_error)?;
        // RFC 5647 §7.1: 4 fixed bytes and a counter of 8, which starts at a derived value.
        let (fixed, counter) = iv.split_first_chunk().ok_or(Error::Mac)?;
        Ok(Gcm {
            key: LessSafeKey::new(key),
            fixed: *fixed,
            counter: u64::from_be_bytes(counter.try_into().map_err(|_| Error::Mac)?),
        })
    }

    /// Derives the keys of one direction, for sealing.
    pub(crate) fn sealer(
        &self,
        mac: Option<MacSpec>,
        material: &KeyMaterial,
        direction: Direction,
    ) -> Result<Sealer, Error> {
        Ok(match self.kind {
            CipherKind::Gcm(algorithm) => {
                Sealer::Gcm(Box::new(self.gcm(algorithm, material, direction)?))
            }
            CipherKind::ChaCha => Sealer::ChaCha(Box::new(chacha::SealingKey::new(&chacha_key(
                material, direction,
            )?))),
            CipherKind::Ctr(algorithm) | CipherKind::Cbc(algorithm) => Sealer::Block(Box::new((
                self.block(algorithm, material, direction, true)?,
                mac_key(mac, material, direction)?,
            ))),
        })
    }

    /// Derives the keys of one direction, for opening.
    pub(crate) fn opener(
        &self,
        mac: Option<MacSpec>,
        material: &KeyMaterial,
        direction: Direction,
    ) -> Result<Opener, Error> {
        Ok(match self.kind {
            CipherKind::Gcm(algorithm) => {
                Opener::Gcm(Box::new(self.gcm(algorithm, material, direction)?))
            }
            CipherKind::ChaCha => Opener::ChaCha(Box::new(chacha::OpeningKey::new(&chacha_key(
                material, direction,
            )?))),
            CipherKind::Ctr(algorithm) | CipherKind::Cbc(algorithm) => Opener::Block(Box::new((
                self.block(algorithm, material, direction, false)?,
                mac_key(mac, material, direction)?,
            ))),
        })
    }
}

#[expect(
    deprecated,
    reason = "offered only if the configuration names it, for servers that have nothing else"
)]
fn triple_des() -> &'static cipher::Algorithm {
    &cipher::DES_EDE3_FOR_LEGACY_USE_ONLY
}

fn chacha_key(
    material: &KeyMaterial,
    direction: Direction,
) -> Result<[u8; chacha::KEY_LEN], Error> {
    let key = material.key(direction.key_letter(), chacha::KEY_LEN);
    key.as_slice().try_into().map_err(|_| Error::Mac)
}

fn mac_key(
    mac: Option<MacSpec>,
    material: &KeyMaterial,
    direction: Direction,
) -> Result<Mac, Error> {
    let mac = mac.ok_or_else(|| Error::KexFailed("no MAC was agreed on".to_owned()))?;
    Ok(mac.with_key(&material.key(direction.mac_letter(), mac.key_len)))
}

/// The direction of packets, which selects the letters of the key derivation (RFC 4253 §7.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ClientToServer,
    ServerToClient,
}

impl Direction {
    fn iv_letter(self) -> u8 {
        if self == Self::ClientToServer {
            b'A'
        } else {
            b'B'
        }
    }

    fn key_letter(self) -> u8 {
        if self == Self::ClientToServer {
            b'C'
        } else {
            b'D'
        }
    }

    fn mac_letter(self) -> u8 {
        if self == Self::ClientToServer {
            b'E'
        } else {
            b'F'
        }
    }
}

#[cfg(test)]
mod tests;
