//! The protocol's versions and this build's own.

/// The protocol versions that this build speaks, best first.
pub const PROTOCOLS: &[u32] = &[1];

/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The largest line, in bytes, that either side takes.
pub const MAX_LINE: usize = 1024 * 1024;
