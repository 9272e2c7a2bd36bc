//! Sealing and opening packets in place: AES-GCM (RFC 5647 as OpenSSH has it),
//! chacha20-poly1305@openssh.com, and block ciphers with a MAC.

use aws_lc_rs::aead::chacha20_poly1305_openssh as chacha;
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher;

use super::block::{BlockCipher, broken};
use super::mac::{Mac, MacSpec};
use crate::error::Error;
use crate::kex::KeyMaterial;

/// The largest `packet_length` that is taken: 256 KiB, as OpenSSH has it.
pub(super) const MAX_LENGTH: usize = 256 * 1024;
/// The length field.
pub(super) const LENGTH_LEN: usize = 4;
const GCM_TAG: usize = 16;

/// What a cipher's name stands for.
#[derive(Clone, Copy)]
pub(crate) struct CipherSpec {
    kind: Kind,
    key_len: usize,
    iv_len: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Gcm(&'static aead::Algorithm),
    ChaCha,
    Ctr(&'static cipher::Algorithm),
    Cbc(&'static cipher::Algorithm),
}

impl CipherSpec {
    pub(crate) fn of(name: &str) -> Option<Self> {
        let (kind, key_len, iv_len) = match name {
            "aes128-gcm@openssh.com" => (Kind::Gcm(&aead::AES_128_GCM), 16, 12),
            "aes256-gcm@openssh.com" => (Kind::Gcm(&aead::AES_256_GCM), 32, 12),
            "chacha20-poly1305@openssh.com" => (Kind::ChaCha, chacha::KEY_LEN, 0),
            "aes128-ctr" => (Kind::Ctr(&cipher::AES_128), 16, 16),
            "aes192-ctr" => (Kind::Ctr(&cipher::AES_192), 24, 16),
            "aes256-ctr" => (Kind::Ctr(&cipher::AES_256), 32, 16),
            "aes128-cbc" => (Kind::Cbc(&cipher::AES_128), 16, 16),
            "aes192-cbc" => (Kind::Cbc(&cipher::AES_192), 24, 16),
            "aes256-cbc" => (Kind::Cbc(&cipher::AES_256), 32, 16),
            "3des-cbc" => (Kind::Cbc(triple_des()), 24, 8),
            _ => return None,
        };
        Some(Self {
            kind,
            key_len,
            iv_len,
        })
    }

    /// Whether it authenticates by itself, so that no MAC is agreed on.
    pub(crate) fn is_aead(&self) -> bool {
        matches!(self.kind, Kind::Gcm(_) | Kind::ChaCha)
    }

    /// Whether it is open to prefix truncation without strict key exchange: ChaCha20 always, a
    /// CBC cipher when the MAC is over the ciphertext.
    pub(crate) fn is_terrapin(&self, mac: Option<&str>) -> bool {
        match self.kind {
            Kind::ChaCha => true,
            Kind::Cbc(_) => mac.is_some_and(|mac| mac.contains("-etm@")),
            _ => false,
        }
    }

    /// How many bytes one key may seal: RFC 4344 §3.2 for 128-bit blocks, and a gigabyte for
    /// 64-bit ones.
    pub(crate) fn byte_limit(&self) -> u64 {
        if self.iv_len == 8 { 1 << 30 } else { 1 << 35 }
    }

    fn block(
        &self,
        algorithm: &'static cipher::Algorithm,
        material: &KeyMaterial,
        way: Way,
        encrypt: bool,
    ) -> Result<BlockCipher, Error> {
        let key = material.key(way.key_letter(), self.key_len);
        let iv = material.key(way.iv_letter(), self.iv_len);
        match self.kind {
            Kind::Cbc(_) => BlockCipher::cbc(algorithm, &key, &iv, encrypt),
            _ => BlockCipher::ctr(algorithm, &key, &iv),
        }
    }

    fn gcm(
        &self,
        algorithm: &'static aead::Algorithm,
        material: &KeyMaterial,
        way: Way,
    ) -> Result<Gcm, Error> {
        let key = material.key(way.key_letter(), self.key_len);
        let iv = material.key(way.iv_letter(), self.iv_len);
        let key = UnboundKey::new(algorithm, &key).map_err(broken)?;
        let (fixed, counter) = iv.split_first_chunk().ok_or(Error::Mac)?;
        Ok(Gcm {
            key: LessSafeKey::new(key),
            fixed: *fixed,
            counter: u64::from_be_bytes(counter.try_into().map_err(|_| Error::Mac)?),
        })
    }

    /// The sealing side of these keys.
    pub(super) fn sealer(
        &self,
        mac: Option<MacSpec>,
        material: &KeyMaterial,
        way: Way,
    ) -> Result<Sealer, Error> {
        Ok(match self.kind {
            Kind::Gcm(algorithm) => Sealer::Gcm(Box::new(self.gcm(algorithm, material, way)?)),
            Kind::ChaCha => Sealer::ChaCha(Box::new(chacha::SealingKey::new(&chacha_key(
                material, way,
            )?))),
            Kind::Ctr(algorithm) | Kind::Cbc(algorithm) => Sealer::Block(Box::new((
                self.block(algorithm, material, way, true)?,
                mac_key(mac, material, way)?,
            ))),
        })
    }

    /// The opening side of these keys.
    pub(super) fn opener(
        &self,
        mac: Option<MacSpec>,
        material: &KeyMaterial,
        way: Way,
    ) -> Result<Opener, Error> {
        Ok(match self.kind {
            Kind::Gcm(algorithm) => Opener::Gcm(Box::new(self.gcm(algorithm, material, way)?)),
            Kind::ChaCha => Opener::ChaCha(Box::new(chacha::OpeningKey::new(&chacha_key(
                material, way,
            )?))),
            Kind::Ctr(algorithm) | Kind::Cbc(algorithm) => Opener::Block(Box::new((
                self.block(algorithm, material, way, false)?,
                mac_key(mac, material, way)?,
            ))),
        })
    }
}

#[expect(
    deprecated,
    reason = "for servers that have nothing else, and only when named"
)]
fn triple_des() -> &'static cipher::Algorithm {
    &cipher::DES_EDE3_FOR_LEGACY_USE_ONLY
}

fn chacha_key(material: &KeyMaterial, way: Way) -> Result<[u8; chacha::KEY_LEN], Error> {
    let key = material.key(way.key_letter(), chacha::KEY_LEN);
    key.as_slice().try_into().map_err(|_| Error::Mac)
}

fn mac_key(mac: Option<MacSpec>, material: &KeyMaterial, way: Way) -> Result<Mac, Error> {
    let mac = mac.ok_or_else(|| Error::KexFailed("no MAC was agreed on".to_owned()))?;
    Ok(mac.key(&material.key(way.mac_letter(), mac.key_len)))
}

/// Which letters of RFC 4253 §7.2 are a side's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Client to server.
    Out,
    /// Server to client.
    In,
}

impl Way {
    fn iv_letter(self) -> u8 {
        if self == Self::Out { b'A' } else { b'B' }
    }

    fn key_letter(self) -> u8 {
        if self == Self::Out { b'C' } else { b'D' }
    }

    fn mac_letter(self) -> u8 {
        if self == Self::Out { b'E' } else { b'F' }
    }
}

/// AES-GCM with its invocation counter.
pub(super) struct Gcm {
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
        self.counter = self.counter.wrapping_add(1);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals the packets of one direction.
pub(super) enum Sealer {
    Clear,
    Gcm(Box<Gcm>),
    ChaCha(Box<chacha::SealingKey>),
    Block(Box<(BlockCipher, Mac)>),
}

impl Sealer {
    /// What the padded part is a multiple of, and whether the length field is in that part.
    pub(super) fn padding(&self) -> (usize, bool) {
        match self {
            Self::Clear => (8, true),
            Self::Gcm(_) => (16, false),
            Self::ChaCha(_) => (8, false),
            Self::Block(block) => (block.0.block_len(), !block.1.etm),
        }
    }

    /// The room for the tag behind the packet.
    pub(super) fn tag_len(&self) -> usize {
        match self {
            Self::Clear => 0,
            Self::Gcm(_) => GCM_TAG,
            Self::ChaCha(_) => chacha::TAG_LEN,
            Self::Block(block) => block.1.tag_len(),
        }
    }

    /// Seals a packet in place: the length field, the padded part, room for the tag.
    pub(super) fn seal(&mut self, sequence: u32, packet: &mut [u8]) -> Result<(), Error> {
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
                    .map_err(broken)?;
                tag_room.copy_from_slice(tag.as_ref());
            }
            Self::ChaCha(key) => {
                let room = tag_room.first_chunk_mut().ok_or_else(short)?;
                key.seal_in_place(sequence, data, room);
            }
            Self::Block(block) => {
                let (cipher, mac) = &mut **block;
                if mac.etm {
                    let body = data.get_mut(LENGTH_LEN..).ok_or_else(short)?;
                    cipher.apply(body)?;
                    tag_room.copy_from_slice(mac.tag(sequence, data).as_ref());
                } else {
                    tag_room.copy_from_slice(mac.tag(sequence, data).as_ref());
                    cipher.apply(data)?;
                }
            }
        }
        Ok(())
    }
}

/// Opens the packets of one direction.
pub(super) enum Opener {
    Clear,
    Gcm(Box<Gcm>),
    ChaCha(Box<chacha::OpeningKey>),
    Block(Box<(BlockCipher, Mac)>),
}

impl Opener {
    /// How many bytes [`Opener::length`] needs.
    pub(super) fn head_len(&self) -> usize {
        match self {
            Self::Block(block) if !block.1.etm => block.0.block_len(),
            _ => LENGTH_LEN,
        }
    }

    /// The room of the tag behind the packet.
    pub(super) fn tag_len(&self) -> usize {
        match self {
            Self::Clear => 0,
            Self::Gcm(_) => GCM_TAG,
            Self::ChaCha(_) => chacha::TAG_LEN,
            Self::Block(block) => block.1.tag_len(),
        }
    }

    /// The packet's length out of its head; called once for each packet, as it may decrypt the
    /// head in place.
    pub(super) fn length(&mut self, sequence: u32, head: &mut [u8]) -> Result<usize, Error> {
        let (block, with_length) = match self {
            Self::Clear => (8, true),
            Self::Gcm(_) => (16, false),
            Self::ChaCha(_) => (8, false),
            Self::Block(block) => (block.0.block_len(), !block.1.etm),
        };
        let mut hide_fault = false;
        if let Self::Block(block) = self
            && !block.1.etm
        {
            block.0.apply(head)?;
            hide_fault = block.0.is_cbc();
        }
        let mut field = *head
            .first_chunk()
            .ok_or_else(|| Error::Protocol("a packet without a length".to_owned()))?;
        if let Self::ChaCha(key) = self {
            field = key.decrypt_packet_length(sequence, field);
        }
        let length = u32::from_be_bytes(field) as usize;
        let padded = if with_length {
            length.saturating_add(LENGTH_LEN)
        } else {
            length
        };
        // The smallest packet: RFC 4253 §6 has 16 bytes, and one block is never less.
        let least = if with_length { 16 } else { block.max(8) };
        if length > MAX_LENGTH || padded < least || !padded.is_multiple_of(block) {
            // With CBC the answer must not tell when the length was wrong (CVE-2008-5161): it
            // fails like a forged packet of the largest size.
            if hide_fault {
                return Ok(MAX_LENGTH - LENGTH_LEN);
            }
            return Err(Error::Protocol(format!("a packet length of {length}")));
        }
        Ok(length)
    }

    /// Opens a whole packet in place: the length field, the padded part, the tag.
    pub(super) fn open(&mut self, sequence: u32, packet: &mut [u8]) -> Result<(), Error> {
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
                    mac.verify(sequence, data, tag)?;
                    cipher.apply(data.get_mut(LENGTH_LEN..).ok_or(Error::Mac)?)?;
                } else {
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
