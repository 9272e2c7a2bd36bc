//! The client against a real sshd: private, on loopback, with keys of its own.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that fails panics"
)]

mod ends;
mod lab;
mod streams;
