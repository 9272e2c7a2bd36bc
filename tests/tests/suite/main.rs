//! The integration tests: the programs as users run them, against real servers. One module per subject.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a helper fails the test, like a panic in the test itself"
)]

mod algorithms;
mod answer_scope;
mod auth;
mod browsers;
mod cli;
mod config_input;
mod control;
mod control_clients;
mod daemon;
mod dependencies;
mod dns_forwards;
mod dynamic_forwards;
mod faults;
mod fixture;
mod forward_checks;
mod hooks;
mod host_keys;
mod http_listen;
mod http_proxy;
mod import;
mod key_derivation;
mod keyboard_interactive;
mod known_hosts;
mod lab;
mod lifecycle;
mod local_forwards;
mod matrix;
#[cfg(target_os = "linux")]
mod network;
mod prompts;
mod proxy_login;
mod real_clients;
mod recipes;
mod reload;
mod remote_forwards;
mod routes;
mod server_refusals;
mod session;
mod side_by_side;
mod socks_input;
#[cfg(target_os = "linux")]
mod system_faults;
mod systemd;
#[cfg(target_os = "linux")]
mod torture;
mod unreadable_files;
mod web_page;
