//! Sealing and opening packets in place, with the keys of one direction (RFC 4253 §6.3 and §6.4, RFC 5647).

use aws_lc_rs::aead::chacha20_poly1305_openssh as chacha;
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};

use super::block::{BlockCipher, cipher_error};
use super::mac::Mac;
use crate::error::Error;

/// Largest `packet_length` that is accepted, in bytes; the same as OpenSSH's.
pub(crate) const MAX_PACKET_LENGTH: usize = 256 * 1024;
/// Size of the length field, in bytes.
pub(crate) const LENGTH_LEN: usize = 4;
/// Size of the tag of AES-GCM, in bytes.
const GCM_TAG: usize = 16;

/// An AES-GCM key with its nonce (RFC 5647 §7.1): a fixed part, and a counter that every packet increments.
pub(crate) struct Gcm {
    pub(super) key: LessSafeKey,
    pub(super) fixed: [u8; 4],
    pub(super) counter: u64,
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
