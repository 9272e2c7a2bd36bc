//! A server that lies, floods, stalls and breaks off, against the real driver under a paused clock:
//! before the key exchange, before the login and after it. Each test is one of its tricks.

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
mod packets;
mod play;
mod rekey;
mod tcp;
