//! zlib@openssh.com, RFC 4253 §6.2 begun after authentication; what comes out is bounded.

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::cipher::MAX_LENGTH;
use crate::error::Error;

/// How much is made room for at a time.
const STEP: usize = 16 * 1024;

/// The receiving side.
pub(super) struct Inflate {
    state: Decompress,
    scratch: Vec<u8>,
}

impl Inflate {
    pub(super) fn new() -> Self {
        Self {
            state: Decompress::new(true),
            scratch: Vec::new(),
        }
    }

    /// Inflates one payload; one larger than any packet ends the session.
    pub(super) fn inflate(&mut self, packed: &[u8]) -> Result<Bytes, Error> {
        let bad = |what: &str| Error::Protocol(format!("compressed data that {what}"));
        let mut out = BytesMut::with_capacity(2 * packed.len().min(STEP));
        let mut rest = packed;
        self.scratch.resize(STEP, 0);
        loop {
            let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(rest, &mut self.scratch, FlushDecompress::Sync)
                .map_err(|_| bad("is damaged"))?;
            let used = usize::try_from(self.state.total_in() - before_in).unwrap_or(usize::MAX);
            let made = usize::try_from(self.state.total_out() - before_out).unwrap_or(usize::MAX);
            rest = rest.get(used..).unwrap_or_default();
            out.extend_from_slice(self.scratch.get(..made).unwrap_or_default());
            if out.len() > MAX_LENGTH {
                return Err(bad("is larger than any packet"));
            }
            match status {
                Status::StreamEnd => return Err(bad("ends")),
                // Everything was taken, and there was room left for more.
                _ if rest.is_empty() && made < STEP => break,
                _ if used == 0 && made == 0 => return Err(bad("is damaged")),
                _ => {}
            }
        }
        if out.is_empty() {
            return Err(bad("is empty"));
        }
        Ok(out.freeze())
    }
}

/// The sending side.
pub(super) struct Deflate {
    state: Compress,
    packed: Vec<u8>,
}

impl Deflate {
    pub(super) fn new() -> Self {
        Self {
            state: Compress::new(Compression::fast(), true),
            packed: Vec::new(),
        }
    }

    /// Deflates one payload, given in two pieces, so that the other side can read all of it.
    pub(super) fn deflate(&mut self, header: &[u8], data: &[u8]) -> Result<&[u8], Error> {
        self.packed.clear();
        self.step(header, FlushCompress::None)?;
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
            let used = usize::try_from(self.state.total_in() - before).unwrap_or(usize::MAX);
            data = data.get(used..).unwrap_or_default();
            // Room left over means that nothing is held back.
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
    fn what_is_deflated_is_inflated() {
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
    fn a_bomb_and_damage_are_refused() {
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
