//! zlib@openssh.com: the compression of RFC 4253 §6.2, started after authentication. The inflated size is bounded.

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::sealing::MAX_PACKET_LENGTH;
use crate::error::Error;

/// Bytes that are inflated per call of the library.
const INFLATE_STEP: usize = 16 * 1024;

/// Decompresses received payloads: one zlib stream per direction and key exchange.
pub(crate) struct Inflate {
    state: Decompress,
    scratch: Vec<u8>,
}

impl Inflate {
    pub(crate) fn new() -> Self {
        Self {
            state: Decompress::new(true),
            scratch: Vec::new(),
        }
    }

    /// Inflates one payload.
    ///
    /// # Errors
    /// The data is damaged, or inflates to more than the largest packet (a decompression bomb).
    pub(crate) fn inflate(&mut self, packed: &[u8]) -> Result<Bytes, Error> {
        let error = |what: &str| Error::Protocol(format!("compressed data that {what}"));
        // Bounded by a constant and not by the packed length: a small packet may inflate a thousandfold.
        let mut out = BytesMut::with_capacity(2 * packed.len().min(INFLATE_STEP));
        let mut rest = packed;
        self.scratch.resize(INFLATE_STEP, 0);
        loop {
            let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(rest, &mut self.scratch, FlushDecompress::Sync)
                .map_err(|_| error("is damaged"))?;
            let consumed = usize::try_from(self.state.total_in() - before_in).unwrap_or(usize::MAX);
            let produced =
                usize::try_from(self.state.total_out() - before_out).unwrap_or(usize::MAX);
            rest = rest.get(consumed..).unwrap_or_default();
            out.extend_from_slice(self.scratch.get(..produced).unwrap_or_default());
            // Checked after each step, so that a bomb costs one step more than the limit.
            if out.len() > MAX_PACKET_LENGTH {
                return Err(error("is larger than any packet"));
            }
            match status {
                // A stream lasts until the next key exchange; one that ends cannot continue with the next packet.
                Status::StreamEnd => return Err(error("ends")),
                // All input is consumed, and room was left: nothing is held back.
                _ if rest.is_empty() && produced < INFLATE_STEP => break,
                _ if consumed == 0 && produced == 0 => return Err(error("is damaged")),
                _ => {}
            }
        }
        // A payload has its message number at least (`PacketReader::poll` promises it).
        if out.is_empty() {
            return Err(error("is empty"));
        }
        Ok(out.freeze())
    }
}

/// Compresses payloads to send: one zlib stream per direction and key exchange.
pub(crate) struct Deflate {
    state: Compress,
    packed: Vec<u8>,
}

impl Deflate {
    pub(crate) fn new() -> Self {
        Self {
            state: Compress::new(Compression::fast(), true),
            packed: Vec::new(),
        }
    }

    /// Deflates one payload, given in two parts, and flushes it so that the server can read all of it.
    pub(crate) fn deflate(&mut self, header: &[u8], data: &[u8]) -> Result<&[u8], Error> {
        self.packed.clear();
        self.step(header, FlushCompress::None)?;
        // RFC 4253 §6.2: each packet is flushed, so that the server can read it without the next one.
        self.step(data, FlushCompress::Sync)?;
        Ok(&self.packed)
    }

    fn step(&mut self, mut data: &[u8], flush: FlushCompress) -> Result<(), Error> {
        loop {
            self.packed.reserve(data.len() / 2 + 256);
            let before = self.state.total_in();
            self.state
                .compress_vec(data, &mut self.packed, flush)
                .map_err(|_| Error::Protocol("compression failed".to_owned()))?;
            let consumed = usize::try_from(self.state.total_in() - before).unwrap_or(usize::MAX);
            data = data.get(consumed..).unwrap_or_default();
            // Room is left: the library holds nothing back.
            if data.is_empty() && self.packed.len() < self.packed.capacity() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deflated_payloads_inflate_to_the_same_bytes() {
        let (mut deflate, mut inflate) = (Deflate::new(), Inflate::new());
        let mut noise = vec![0; 40_000];
        aws_lc_rs::rand::fill(&mut noise).unwrap();
        for payload in [&b"x"[..], &[7; 32_768], &noise, b"again", &[0; 200_000]] {
            let (header, data) = payload.split_at(payload.len() / 3);
            let packed = deflate.deflate(header, data).unwrap().to_vec();
            assert_eq!(inflate.inflate(&packed).unwrap(), payload);
        }
    }

    #[test]
    fn a_bomb_and_damaged_data_are_refused() {
        let packed = Deflate::new()
            .deflate(&[], &vec![0; 10 << 20])
            .unwrap()
            .to_vec();
        assert!(packed.len() < 64 * 1024);
        assert!(Inflate::new().inflate(&packed).is_err());
        assert!(Inflate::new().inflate(b"not zlib at all").is_err());
        assert!(Inflate::new().inflate(&[]).is_err());
    }
}
