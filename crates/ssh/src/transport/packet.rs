//! The binary packet protocol (RFC 4253 §6): one half per direction, with its keys, sequence number and compression.

use bytes::{Buf, Bytes, BytesMut};

use super::compress::{Deflate, Inflate};
use super::mac::MAX_TAG;
use super::sealing::{LENGTH_LEN, MAX_PACKET_LENGTH, Opener, Sealer};
use crate::error::Error;

/// Smallest padding of a packet, in bytes (RFC 4253 §6); the largest is 255.
const MIN_PADDING: usize = 4;
/// Largest number of bytes that a packet has beyond its payload.
const MAX_OVERHEAD: usize = LENGTH_LEN + 1 + MIN_PADDING + 16 + MAX_TAG;

/// Traffic under the current keys of one direction.
#[derive(Default, Clone, Copy)]
pub(crate) struct KeyUsage {
    /// Packets sealed or opened: bounded, because the sequence number must not repeat under one key (RFC 4344 §3.1).
    pub(crate) packets: u64,
    /// Bytes of whole packets, padding and tag included.
    pub(crate) bytes: u64,
}

impl KeyUsage {
    fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// Opens the packets of the server's direction.
pub(crate) struct PacketReader {
    /// Received bytes that are not opened yet.
    pub(crate) buffer: BytesMut,
    opener: Opener,
    sequence: u32,
    /// Length of the packet at the front. `None` until its first block is decrypted.
    packet_length: Option<usize>,
    pub(crate) inflate: Option<Inflate>,
    pub(crate) usage: KeyUsage,
}

impl PacketReader {
    pub(crate) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            opener: Opener::Clear,
            sequence: 0,
            packet_length: None,
            inflate: None,
            usage: KeyUsage::default(),
        }
    }

    /// Sequence number of the packet that was opened last.
    pub(crate) fn last_sequence(&self) -> u32 {
        self.sequence.wrapping_sub(1)
    }

    /// Puts new keys in use. With strict key exchange the sequence number starts at 0 again.
    pub(crate) fn rekey(&mut self, opener: Opener, inflate: Option<Inflate>, strict: bool) {
        self.opener = opener;
        self.inflate = inflate;
        self.usage = KeyUsage::default();
        if strict {
            self.sequence = 0;
        }
    }

    /// Opens the next packet and returns its payload, never empty. `None` if more bytes are needed.
    pub(crate) fn poll(&mut self) -> Result<Option<Bytes>, Error> {
        let length = match self.packet_length {
            Some(length) => length,
            None => {
                let head_len = self.opener.head_len();
                let Some(head) = self.buffer.get_mut(..head_len) else {
                    return Ok(None);
                };
                // Kept in `packet_length`: a cipher that encrypts the length has decrypted the head in place, which
                // must not happen twice.
                let length = self.opener.packet_length(self.sequence, head)?;
                *self.packet_length.insert(length)
            }
        };
        // `packet_length` has bounded it to 256 KiB, so that the buffer cannot be made to grow further.
        let total = LENGTH_LEN + length + self.opener.tag_len();
        if self.buffer.len() < total {
            return Ok(None);
        }
        self.packet_length = None;
        // Split off, not copied: the payload stays a slice of the read buffer.
        let mut packet = self.buffer.split_to(total);
        self.opener.open(self.sequence, &mut packet)?;
        // RFC 4253 §6.4: the number is never sent, so that both sides count; it wraps around.
        self.sequence = self.sequence.wrapping_add(1);
        self.usage.count(total);
        // Read only after the tag was checked: a forged padding length never reaches this line.
        let padding = usize::from(*packet.get(LENGTH_LEN).unwrap_or(&0));
        let payload_len = length
            .checked_sub(1 + padding)
            // A payload has its message number at least, so that an empty one is malformed.
            .filter(|payload| *payload > 0 && padding >= MIN_PADDING)
            .ok_or_else(|| Error::Protocol("a packet with wrong padding".to_owned()))?;
        packet.advance(LENGTH_LEN + 1);
        packet.truncate(payload_len);
        match &mut self.inflate {
            Some(inflate) => inflate.inflate(&packet).map(Some),
            None => Ok(Some(packet.freeze())),
        }
    }
}

/// Seals the packets of our direction.
pub(crate) struct PacketWriter {
    /// Sealed packets that are not written yet.
    pub(crate) output: BytesMut,
    sealer: Sealer,
    sequence: u32,
    pub(crate) deflate: Option<Deflate>,
    pub(crate) usage: KeyUsage,
    padding: Padding,
}

impl PacketWriter {
    pub(crate) fn new() -> Self {
        Self {
            output: BytesMut::new(),
            sealer: Sealer::Clear,
            sequence: 0,
            deflate: None,
            usage: KeyUsage::default(),
            padding: Padding::default(),
        }
    }

    /// Puts new keys in use. With strict key exchange the sequence number starts at 0 again.
    pub(crate) fn rekey(&mut self, sealer: Sealer, deflate: Option<Deflate>, strict: bool) {
        self.sealer = sealer;
        self.deflate = deflate;
        self.usage = KeyUsage::default();
        if strict {
            self.sequence = 0;
        }
    }

    /// Sequence number of the packet that was sealed last.
    pub(crate) fn last_sequence(&self) -> u32 {
        self.sequence.wrapping_sub(1)
    }

    /// Seals a payload, given in two parts, at the end of the output.
    pub(crate) fn write(
        &mut self,
        header: &[u8],
        data: &[u8],
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), Error> {
        match self.deflate.take() {
            // Moved out, because its output borrows it while `self` seals.
            Some(mut deflate) => {
                let sealed = deflate
                    .deflate(header, data)
                    .and_then(|packed| self.seal(packed, &[], fill));
                self.deflate = Some(deflate);
                sealed
            }
            None => self.seal(header, data, fill),
        }
    }

    fn seal(
        &mut self,
        header: &[u8],
        data: &[u8],
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), Error> {
        let payload = header.len() + data.len();
        let (block, length_is_padded) = self.sealer.padding();
        let unpadded = payload + 1 + if length_is_padded { LENGTH_LEN } else { 0 };
        let mut padding = block - unpadded % block;
        // RFC 4253 §6: four bytes at least, so that a whole block is added where less is left over.
        if padding < MIN_PADDING {
            padding += block;
        }
        let length = payload + 1 + padding;
        // Our own bound on what the caller passes in: the server would close the connection.
        if length > MAX_PACKET_LENGTH {
            return Err(Error::Protocol("our payload is too large".to_owned()));
        }
        let start = self.output.len();
        // One reservation per packet: the tag and the padding are included.
        self.output.reserve(payload + MAX_OVERHEAD);
        self.output
            .extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        self.output
            .extend_from_slice(&[u8::try_from(padding).unwrap_or(u8::MAX)]);
        self.output.extend_from_slice(header);
        self.output.extend_from_slice(data);
        // Random, as RFC 4253 §6 asks for.
        self.output
            .extend_from_slice(self.padding.take(padding, fill));
        let tag_len = self.sealer.tag_len();
        // Room for the tag, which is written in place: the packet is never copied.
        self.output
            .extend_from_slice([0; MAX_TAG].get(..tag_len).unwrap_or_default());
        let packet = self.output.get_mut(start..).unwrap_or_default();
        self.usage.count(packet.len());
        self.sealer.seal(self.sequence, packet)?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }
}

/// Random padding, drawn for many packets at once.
struct Padding {
    pool: [u8; 512],
    used: usize,
}

impl Default for Padding {
    fn default() -> Self {
        Self {
            pool: [0; 512],
            used: 512,
        }
    }
}

impl Padding {
    fn take(&mut self, count: usize, fill: &mut dyn FnMut(&mut [u8])) -> &[u8] {
        if self.used + count > self.pool.len() {
            // One call of the random number generator per 512 bytes, instead of one per packet.
            fill(&mut self.pool);
            self.used = 0;
        }
        let start = self.used;
        self.used += count;
        self.pool.get(start..self.used).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::cipher::{CipherSpec, Direction};
    use super::super::mac::MacSpec;
    use super::*;
    use crate::kex::{HashAlgorithm, KeyMaterial};

    /// Without strict key exchange the sequence number is never reset, and it is part of what is sealed.
    #[test]
    fn sequence_numbers_wrap_around() {
        let material = KeyMaterial {
            hash: HashAlgorithm::Sha256,
            secret: Zeroizing::new(vec![0, 0, 0, 1, 7]),
            exchange_hash: Zeroizing::new(vec![1; 32]),
            session_id: vec![2; 32],
        };
        let mac = || MacSpec::find("hmac-sha2-256-etm@openssh.com");
        for cipher in ["chacha20-poly1305@openssh.com", "aes128-ctr"] {
            let spec = CipherSpec::find(cipher).unwrap();
            let (mut writer, mut reader) = (PacketWriter::new(), PacketReader::new());
            (writer.sequence, reader.sequence) = (u32::MAX - 2, u32::MAX - 2);
            let sealer = spec
                .sealer(mac(), &material, Direction::ClientToServer)
                .unwrap();
            writer.rekey(sealer, None, false);
            let opener = spec
                .opener(mac(), &material, Direction::ClientToServer)
                .unwrap();
            reader.rekey(opener, None, false);
            for n in 0..6u8 {
                writer
                    .write(&[94, n], &[], &mut |bytes| bytes.fill(0))
                    .unwrap();
                reader.buffer.extend_from_slice(&writer.output.split());
                assert_eq!(reader.poll().unwrap().unwrap()[..], [94, n]);
                assert_eq!(reader.last_sequence(), writer.last_sequence());
            }
            assert_eq!(writer.last_sequence(), 2);
        }
    }
}
