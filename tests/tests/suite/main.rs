//! The suite: the whole product against real servers, one module a subject.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of tests may panic as a test may"
)]

mod cli;
mod config_input;
mod control;
mod daemon;
mod dynamic;
mod lab;
mod life;
mod local;
mod reload;
mod remote;
mod scene;
mod socks_input;
mod supply;
