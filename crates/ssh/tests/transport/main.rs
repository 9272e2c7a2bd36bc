//! The transport against servers of other implementations. Servers that are not installed are skipped with a message.
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
