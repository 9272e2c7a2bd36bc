//! An SSH client for forwarding: no shell, exec, PTY, agent or X11.
//!
//! The core is sans-IO: bytes in, bytes out, events, and the caller passes in the time. [`transport`] is RFC 4253
//! with its key exchanges, [`auth`] is RFC 4252, [`connection`] is RFC 4254. Module `client` (feature `client`, on by
//! default) drives the core on tokio.
//!
//! The core alone makes an identification and an offer without any socket:
//!
//! ```
//! use std::sync::Arc;
//!
//! use tunneld_ssh::Config;
//! use tunneld_ssh::transport::Transport;
//!
//! let now = std::time::Instant::now();
//! let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(7)); // a real caller needs real randomness
//! let mut transport = Transport::new(Arc::new(Config::default()), now, entropy);
//! assert!(transport.output().starts_with(b"SSH-2.0-tunneld_"));
//!
//! transport.read_buffer().extend_from_slice(b"SSH-2.0-example\r\n");
//! let event = transport.poll_event(now)?;
//! assert!(format!("{event:?}").contains("SSH-2.0-example"));
//! # Ok::<(), tunneld_ssh::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod algorithm;
pub mod auth;
#[cfg(feature = "client")]
pub mod client;
pub mod config;
pub mod connection;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod kex;
pub mod pattern;
pub mod signature;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod token_bucket;
pub mod transport;
pub mod wire;

pub use config::Config;
pub use error::Error;
