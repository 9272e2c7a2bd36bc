//! Sealing and opening of packets without a connection, for benchmarks.

use zeroize::Zeroizing;

use crate::error::Error;
use crate::kex::{HashAlgorithm, KeyMaterial};
use crate::transport::cipher::{CipherSpec, Direction};
use crate::transport::mac::MacSpec;
use crate::transport::packet::{PacketReader, PacketWriter};

/// Both ends of one direction of a connection, with fixed keys.
pub struct PacketPair {
    writer: PacketWriter,
    reader: PacketReader,
}

impl PacketPair {
    /// Ends with a cipher of [`Kind::Cipher`](crate::algorithm::Kind::Cipher), and a MAC that is used unless the cipher
    /// authenticates by itself.
    ///
    /// # Errors
    /// The cipher or the MAC is unknown.
    pub fn new(cipher: &str, mac: &str) -> Result<Self, Error> {
        let material = KeyMaterial {
            hash: HashAlgorithm::Sha256,
            secret: Zeroizing::new(vec![0, 0, 0, 1, 7]),
            exchange_hash: Zeroizing::new(vec![1; 32]),
            session_id: vec![2; 32],
        };
        let spec = CipherSpec::find(cipher)
            .ok_or_else(|| Error::KexFailed(format!("no cipher {cipher}")))?;
        let mac = MacSpec::find(mac);
        let direction = Direction::ClientToServer;
        let (mut writer, mut reader) = (PacketWriter::new(), PacketReader::new());
        writer.rekey(spec.sealer(mac, &material, direction)?, None, true);
        reader.rekey(spec.opener(mac, &material, direction)?, None, true);
        Ok(Self { writer, reader })
    }

    /// Seals one payload and keeps the packet for [`PacketPair::open`].
    ///
    /// # Errors
    /// The payload is too large for a packet.
    pub fn seal(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.writer.write(payload, &[], &mut |bytes| bytes.fill(7))
    }

    /// Returns the number of sealed bytes and discards them.
    pub fn discard(&mut self) -> usize {
        let sealed = self.writer.output.len();
        self.writer.output.clear();
        sealed
    }

    /// Opens all sealed packets. Returns the number of payload bytes.
    ///
    /// # Errors
    /// A packet failed its integrity check.
    pub fn open(&mut self) -> Result<usize, Error> {
        std::mem::swap(&mut self.reader.buffer, &mut self.writer.output);
        let mut bytes = 0;
        while let Some(payload) = self.reader.poll()? {
            bytes += payload.len();
        }
        Ok(bytes)
    }
}
