//! The client against a hostile server under a paused clock: wrong, endless, missing and truncated messages before
//! the key exchange, before the login and after it. Each test is one attack.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

#[path = "../peer/mod.rs"]
mod peer;

mod auth;
mod channels;
mod deadlines;
mod exchange;
mod floods;
mod forwards;
mod identification;
mod kexinit;
mod messages;
mod packets;
mod play;
mod rekey;
mod tcp;
