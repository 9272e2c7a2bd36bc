//! The binary packet protocol, RFC 4253 §6: one half for each direction, with its keys, its
//! sequence number and its compression.

use bytes::{Buf, Bytes, BytesMut};

use super::cipher::{LENGTH_LEN, MAX_LENGTH, Opener, Sealer};
use super::compress::{Deflate, Inflate};
use super::mac::MAX_TAG;
use crate::error::Error;

/// The least padding there is.
const MIN_PADDING: usize = 4;
/// The most room that one packet takes beyond its payload.
const OVERHEAD: usize = LENGTH_LEN + 1 + MIN_PADDING + 16 + MAX_TAG;

/// What was done under one direction's current keys.
#[derive(Default, Clone, Copy)]
pub(super) struct Usage {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Usage {
    fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// What comes in.
pub(super) struct Inbound {
    pub(super) read: BytesMut,
    opener: Opener,
    sequence: u32,
    /// Of the packet at the front, once its head was opened.
    length: Option<usize>,
    pub(super) inflate: Option<Inflate>,
    pub(super) usage: Usage,
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self {
            read: BytesMut::new(),
            opener: Opener::Clear,
            sequence: 0,
            length: None,
            inflate: None,
            usage: Usage::default(),
        }
    }

    /// The sequence number of the packet that was taken last.
    pub(super) fn last_sequence(&self) -> u32 {
        self.sequence.wrapping_sub(1)
    }

    /// Takes new keys; with strict key exchange the numbers begin anew.
    pub(super) fn rekey(&mut self, opener: Opener, inflate: Option<Inflate>, strict: bool) {
        self.opener = opener;
        self.inflate = inflate;
        self.usage = Usage::default();
        if strict {
            self.sequence = 0;
        }
    }

    /// The next payload, never empty, if all of its packet was read.
    pub(super) fn poll(&mut self) -> Result<Option<Bytes>, Error> {
        let length = match self.length {
            Some(length) => length,
            None => {
                let head_len = self.opener.head_len();
                let Some(head) = self.read.get_mut(..head_len) else {
                    return Ok(None);
                };
                let length = self.opener.length(self.sequence, head)?;
                *self.length.insert(length)
            }
        };
        let total = LENGTH_LEN + length + self.opener.tag_len();
        if self.read.len() < total {
            return Ok(None);
        }
        self.length = None;
        let mut packet = self.read.split_to(total);
        self.opener.open(self.sequence, &mut packet)?;
        self.sequence = self.sequence.wrapping_add(1);
        self.usage.count(total);
        let padding = usize::from(*packet.get(LENGTH_LEN).unwrap_or(&0));
        let payload_len = length
            .checked_sub(1 + padding)
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

/// What goes out.
pub(super) struct Outbound {
    pub(super) out: BytesMut,
    sealer: Sealer,
    sequence: u32,
    pub(super) deflate: Option<Deflate>,
    pub(super) usage: Usage,
    padding: Padding,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self {
            out: BytesMut::new(),
            sealer: Sealer::Clear,
            sequence: 0,
            deflate: None,
            usage: Usage::default(),
            padding: Padding::default(),
        }
    }

    /// Takes new keys; with strict key exchange the numbers begin anew.
    pub(super) fn rekey(&mut self, sealer: Sealer, deflate: Option<Deflate>, strict: bool) {
        self.sealer = sealer;
        self.deflate = deflate;
        self.usage = Usage::default();
        if strict {
            self.sequence = 0;
        }
    }

    /// The sequence number of the packet that was sealed last.
    pub(super) fn last_sequence(&self) -> u32 {
        self.sequence.wrapping_sub(1)
    }

    /// Seals a payload, given in two pieces, at the end of the output.
    pub(super) fn send(
        &mut self,
        header: &[u8],
        data: &[u8],
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), Error> {
        match self.deflate.take() {
            Some(mut deflate) => {
                let sent = deflate
                    .deflate(header, data)
                    .and_then(|packed| self.seal(packed, &[], fill));
                self.deflate = Some(deflate);
                sent
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
        let (block, with_length) = self.sealer.padding();
        let unpadded = payload + 1 + if with_length { LENGTH_LEN } else { 0 };
        let mut padding = block - unpadded % block;
        if padding < MIN_PADDING {
            padding += block;
        }
        let length = payload + 1 + padding;
        if length > MAX_LENGTH {
            return Err(Error::Protocol("a payload of ours is too large".to_owned()));
        }
        let start = self.out.len();
        self.out.reserve(payload + OVERHEAD);
        self.out
            .extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        self.out
            .extend_from_slice(&[u8::try_from(padding).unwrap_or(u8::MAX)]);
        self.out.extend_from_slice(header);
        self.out.extend_from_slice(data);
        self.out.extend_from_slice(self.padding.take(padding, fill));
        let tag_len = self.sealer.tag_len();
        self.out
            .extend_from_slice([0; MAX_TAG].get(..tag_len).unwrap_or_default());
        let packet = self.out.get_mut(start..).unwrap_or_default();
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

    use super::super::cipher::{CipherSpec, Way};
    use super::super::mac::MacSpec;
    use super::*;
    use crate::kex::{Hash, KeyMaterial};

    /// Where keys are not strict the numbers go on for ever, and are part of what is sealed.
    #[test]
    fn sequence_numbers_come_round() {
        let material = KeyMaterial {
            hash: Hash::Sha256,
            secret: Zeroizing::new(vec![0, 0, 0, 1, 7]),
            exchange_hash: Zeroizing::new(vec![1; 32]),
            session_id: vec![2; 32],
        };
        let mac = || MacSpec::of("hmac-sha2-256-etm@openssh.com");
        for cipher in ["chacha20-poly1305@openssh.com", "aes128-ctr"] {
            let spec = CipherSpec::of(cipher).unwrap();
            let (mut out, mut inbound) = (Outbound::new(), Inbound::new());
            (out.sequence, inbound.sequence) = (u32::MAX - 2, u32::MAX - 2);
            let sealer = spec.sealer(mac(), &material, Way::Out).unwrap();
            out.rekey(sealer, None, false);
            let opener = spec.opener(mac(), &material, Way::Out).unwrap();
            inbound.rekey(opener, None, false);
            for n in 0..6u8 {
                out.send(&[94, n], &[], &mut |bytes| bytes.fill(0)).unwrap();
                inbound.read.extend_from_slice(&out.out.split());
                assert_eq!(inbound.poll().unwrap().unwrap()[..], [94, n]);
                assert_eq!(inbound.last_sequence(), out.last_sequence());
            }
            assert_eq!(out.last_sequence(), 2);
        }
    }
}
