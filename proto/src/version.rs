//! Version numbers and the line limit of the protocol.

/// Protocol versions that this build supports, preferred first.
pub const PROTOCOLS: &[u32] = &[1];

/// Version of this build, as in `tunneld --version`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Longest line that either side accepts, in bytes without the line feed (1 MiB).
pub const MAX_LINE: usize = 1024 * 1024;
