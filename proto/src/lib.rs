//! The control protocol between `tunneld` and its clients: JSON-RPC 2.0, one object per line, over a Unix socket or a
//! Windows named pipe.
//!
//! Fields and kinds are only added, never changed or removed; a reader skips what it does not know. Wire types, text
//! and paths are plain data without I/O. Codec, endpoint and client need tokio and are behind the feature `client`
//! (on by default).
#![forbid(unsafe_code)]

#[macro_use]
mod kinds;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod codec;
pub mod duration;
#[cfg(feature = "client")]
pub mod endpoint;
pub mod error;
pub mod failure;
pub mod message;
pub mod paths;
pub mod status;
pub mod text;
pub mod version;
