//! The suite: the whole product against real servers, one module a subject.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of tests may panic as a test may"
)]

mod algorithms;
mod auth;
mod cli;
mod config_input;
mod control;
mod control_clients;
mod daemon;
mod dependencies;
mod dynamic_forwards;
mod faults;
mod fixture;
mod hooks;
mod host_keys;
mod known_hosts;
mod lab;
mod lifecycle;
mod local_forwards;
mod matrix;
#[cfg(target_os = "linux")]
mod network;
mod prompts;
mod recipes;
mod reload;
mod remote_forwards;
mod routes;
mod session;
mod socks_input;
#[cfg(target_os = "linux")]
mod system_faults;
mod systemd;
