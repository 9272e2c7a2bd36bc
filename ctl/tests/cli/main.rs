//! Runs tunnelctl against a scripted daemon: exit codes, stdout and stderr, closed pipes, bytes through `connect`.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers outside of test functions fail with them"
)]

mod answer;
mod connect;
mod daemon;
mod reach;
mod show;
mod terminal;
mod up;
