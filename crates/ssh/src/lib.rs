//! An SSH client core for forwarding, and nothing else: no shell, exec, PTY, agent or X11.
//!
//! The core is pure, in the manner of a sans-IO protocol: bytes in, bytes out, events, and the
//! time is told to it. [`transport`] is RFC 4253 with its key exchanges.
#![forbid(unsafe_code)]

pub mod algorithm;
pub mod auth;
pub mod config;
pub mod connection;
pub mod driver;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod kex;
pub mod signature;
pub mod transport;
pub mod wire;

pub use config::Config;
pub use error::Error;
