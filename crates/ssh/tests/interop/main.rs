//! The client against real servers: a private sshd on loopback, and russh's server in memory.
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
