//! The suite: the whole product against real servers, one module a subject.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of tests may panic as a test may"
)]

mod auth;
mod cli;
mod clients;
mod config_input;
mod control;
mod daemon;
mod dynamic;
mod faults;
mod hooks;
mod host_keys;
mod known_hosts;
mod lab;
mod life;
mod local;
#[cfg(target_os = "linux")]
mod machine;
mod matrix;
#[cfg(target_os = "linux")]
mod network;
mod prompts;
mod reach;
mod recipes;
mod reload;
mod remote;
mod scene;
mod servers;
mod service;
mod session;
mod socks_input;
mod supply;
