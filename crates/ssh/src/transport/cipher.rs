//! Sealing and opening packets in place: AES-GCM (RFC 5647 with OpenSSH's negotiation),
//! chacha20-poly1305@openssh.com, and block ciphers with a MAC.

use aws_lc_rs::aead::chacha20_poly1305_openssh as chacha;
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher;

use super::block::{BlockCipher, cipher_error};
use super::mac::{Mac, MacSpec};
use crate::error::Error;
use crate::kex::KeyMaterial;

/// Largest `packet_length` that is accepted, in bytes; the same as OpenSSH's.
pub(crate) const MAX_PACKET_LENGTH: usize = 256 * 1024;
/// Size of the length field, in bytes.
pub(crate) const LENGTH_LEN: usize = 4;
const GCM_TAG: usize = 16;

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

/// An AES-GCM key with its nonce (RFC 5647 §7.1): a fixed part, and a counter that every packet increments.
pub(crate) struct Gcm {
    key: LessSafeKey,
    fixed: [u8; 4],
    counter: u64,
}

impl Gcm {
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        let (fixed, counter) = nonce.split_at_mut(4);
        fixed.copy_from_slice(&self.fixed);
        counter.copy_from_slice(&self.counter.to_be_bytes());
        // Also for a packet that fails its check: the session ends then, and a nonce must never repeat.
        self.counter = self.counter.wrapping_add(1);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals the packets of one direction.
pub(crate) enum Sealer {
    Clear,
    Gcm(Box<Gcm>),
    ChaCha(Box<chacha::SealingKey>),
    Block(Box<(BlockCipher, Mac)>),
}

impl Sealer {
    /// The block size that the padded part is a multiple of, in bytes, and whether the length field is in the padded
    /// part.
    pub(crate) fn padding(&self) -> (usize, bool) {
        match self {
            Self::Clear => (8, true),
            Self::Gcm(_) => (16, false),
            // AES-GCM, ChaCha20 and encrypt-then-MAC leave the length out of the padded part: they send it in clear, or
            // seal it apart.
            Self::ChaCha(_) => (8, false),
            Self::Block(block) => (block.0.block_len(), !block.1.etm),
        }
    }

    /// Size of the tag behind the packet, in bytes.
    pub(crate) fn tag_len(&self) -> usize {
        match self {
            Self::Clear => 0,
            Self::Gcm(_) => GCM_TAG,
            Self::ChaCha(_) => chacha::TAG_LEN,
            Self::Block(block) => block.1.tag_len(),
        }
    }

    /// Seals a packet in place: length field, padded part, room for the tag.
    pub(crate) fn seal(&mut self, sequence: u32, packet: &mut [u8]) -> Result<(), Error> {
        let short = || Error::KexFailed("a packet is too short".to_owned());
        let end = packet.len().checked_sub(self.tag_len()).ok_or_else(short)?;
        let (data, tag_room) = packet.split_at_mut_checked(end).ok_or_else(short)?;
        match self {
            Self::Clear => {}
            Self::Gcm(gcm) => {
                let (length, body) = data
                    .split_first_chunk_mut::<LENGTH_LEN>()
                    .ok_or_else(short)?;
                let nonce = gcm.nonce();
                let tag = gcm
                    .key
                    .seal_in_place_separate_tag(nonce, Aad::from(*length), body)
                    .map_err(cipher_error)?;
                tag_room.copy_from_slice(tag.as_ref());
            }
            Self::ChaCha(key) => {
                let room = tag_room.first_chunk_mut().ok_or_else(short)?;
                key.seal_in_place(sequence, data, room);
            }
            Self::Block(block) => {
                let (cipher, mac) = &mut **block;
                // Encrypt-then-MAC: the length is not encrypted, but the tag covers it (OpenSSH PROTOCOL §1.5).
                if mac.etm {
                    let body = data.get_mut(LENGTH_LEN..).ok_or_else(short)?;
                    cipher.apply(body)?;
                    tag_room.copy_from_slice(mac.tag(sequence, data).as_ref());
                } else {
                    // RFC 4253 §6.4: the tag is that of the plaintext, so that it is computed before the cipher works
                    // in place.
                    tag_room.copy_from_slice(mac.tag(sequence, data).as_ref());
                    cipher.apply(data)?;
                }
            }
        }
        Ok(())
    }
}

/// Opens the packets of one direction.
pub(crate) enum Opener {
    Clear,
    Gcm(Box<Gcm>),
    ChaCha(Box<chacha::OpeningKey>),
    Block(Box<(BlockCipher, Mac)>),
}

impl Opener {
    /// Bytes that [`Opener::packet_length`] needs: a cipher that encrypts the length field has to decrypt one block.
    pub(crate) fn head_len(&self) -> usize {
        match self {
            Self::Block(block) if !block.1.etm => block.0.block_len(),
            _ => LENGTH_LEN,
        }
    }

    /// Size of the tag behind the packet, in bytes.
    pub(crate) fn tag_len(&self) -> usize {
        match self {
            Self::Clear => 0,
            Self::Gcm(_) => GCM_TAG,
            Self::ChaCha(_) => chacha::TAG_LEN,
            Self::Block(block) => block.1.tag_len(),
        }
    }

    /// Returns the packet's length from its head. Must be called once per packet, because it may decrypt the head in
    /// place.
    pub(crate) fn packet_length(&mut self, sequence: u32, head: &mut [u8]) -> Result<usize, Error> {
        let (block, length_is_padded) = match self {
            Self::Clear => (8, true),
            Self::Gcm(_) => (16, false),
            Self::ChaCha(_) => (8, false),
            Self::Block(block) => (block.0.block_len(), !block.1.etm),
        };
        // Set for CBC, whose length is decrypted before anything is authenticated.
        let mut hide_error = false;
        if let Self::Block(block) = self
            && !block.1.etm
        {
            block.0.apply(head)?;
            hide_error = block.0.is_cbc();
        }
        let mut field = *head
            .first_chunk()
            .ok_or_else(|| Error::Protocol("a packet without a length".to_owned()))?;
        if let Self::ChaCha(key) = self {
            field = key.decrypt_packet_length(sequence, field);
        }
        let length = u32::from_be_bytes(field) as usize;
        let padded = if length_is_padded {
            length.saturating_add(LENGTH_LEN)
        } else {
            length
        };
        // RFC 4253 §6: a packet has 16 bytes at least, and never less than one block.
        let min = if length_is_padded { 16 } else { block.max(8) };
        if length > MAX_PACKET_LENGTH || padded < min || !padded.is_multiple_of(block) {
            // With CBC the reaction must not reveal that the decrypted length was wrong (CVE-2008-5161): read on as
            // for a forged packet of the largest size, which then fails its integrity check.
            if hide_error {
                return Ok(MAX_PACKET_LENGTH - LENGTH_LEN);
            }
            return Err(Error::Protocol(format!("a packet length of {length}")));
        }
        Ok(length)
    }

    /// Opens a whole packet in place: length field, padded part, tag.
    pub(crate) fn open(&mut self, sequence: u32, packet: &mut [u8]) -> Result<(), Error> {
        let end = packet.len().checked_sub(self.tag_len()).ok_or(Error::Mac)?;
        match self {
            Self::Clear => {}
            Self::Gcm(gcm) => {
                let (length, sealed) = packet
                    .split_first_chunk_mut::<LENGTH_LEN>()
                    .ok_or(Error::Mac)?;
                let nonce = gcm.nonce();
                gcm.key
                    .open_in_place(nonce, Aad::from(*length), sealed)
                    .map_err(|_| Error::Mac)?;
            }
            Self::ChaCha(key) => {
                let (data, tag) = packet.split_at_mut_checked(end).ok_or(Error::Mac)?;
                let tag = tag.first_chunk().ok_or(Error::Mac)?;
                key.open_in_place(sequence, data, tag)
                    .map_err(|_| Error::Mac)?;
            }
            Self::Block(block) => {
                let (cipher, mac) = &mut **block;
                let (data, tag) = packet.split_at_mut_checked(end).ok_or(Error::Mac)?;
                if mac.etm {
                    // Before decrypting: forged bytes never reach the cipher.
                    mac.verify(sequence, data, tag)?;
                    cipher.apply(data.get_mut(LENGTH_LEN..).ok_or(Error::Mac)?)?;
                } else {
                    // `packet_length` has decrypted the first block.
                    let head = cipher.block_len();
                    cipher.apply(data.get_mut(head..).ok_or(Error::Mac)?)?;
                    mac.verify(sequence, data, tag)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
