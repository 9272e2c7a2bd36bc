//! Inputs and fixtures that several fuzz targets share.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::algorithm::Kind;
use crate::config::Config;
use crate::transport::Transport;
use crate::wire::Reader;

#[expect(
    clippy::disallowed_methods,
    reason = "the fuzz targets run without tokio"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// A client that offers every cipher and whose randomness is constant, so that a run can be repeated.
pub(super) fn client() -> Transport {
    let config = Config {
        ciphers: Kind::Cipher.known().collect(),
        ..Config::default()
    };
    let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(7));
    Transport::new(Arc::new(config), now(), entropy)
}

/// Splits the input into payloads, each behind its length in two bytes. Skips empty ones.
pub(super) fn payloads(bytes: &[u8]) -> Vec<Bytes> {
    let mut reader = Reader::new(bytes);
    let mut payloads = Vec::new();
    while let Ok(length) = reader.array() {
        let length = usize::from(u16::from_be_bytes(length)).min(reader.rest().len());
        match reader.bytes(length) {
            Ok([]) | Err(_) => {}
            Ok(payload) => payloads.push(Bytes::copy_from_slice(payload)),
        }
    }
    payloads
}
