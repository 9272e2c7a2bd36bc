//! The transport alone against servers that others wrote. What is not installed is skipped, with a
//! line that says so.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod client;
mod dropbear;
mod openssh;
mod russh;
mod sshd;
