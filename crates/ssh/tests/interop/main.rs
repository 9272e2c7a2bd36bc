//! The client against real servers: a private sshd on loopback with keys of its own, and russh's in memory.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that fails panics"
)]

mod ends;
mod lab;
mod russh;
mod streams;
