//! Test support: a signer for keys in memory, packet sealing for benchmarks, and (in this crate's unit tests only)
//! scripted servers. Feature `testing`; not part of a production build.

mod key_signer;
mod packets;
#[cfg(test)]
pub(crate) mod peer;
#[cfg(test)]
pub(crate) mod server;

pub use key_signer::KeySigner;
pub use packets::PacketPair;
