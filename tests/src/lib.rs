//! The lab: real SSH servers, faulty links, targets and the real daemon in a temporary home.
//!
//! Nothing here is shared between tests, nothing outlives the value that started it, and whoever waits
//! waits for an event under a deadline.
#![cfg(unix)]
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value never panics, and a lab that panics fails its own test alone"
)]

pub mod agent;
pub mod asyncssh;
#[cfg(target_os = "linux")]
pub mod clock;
pub mod ctl;
pub mod daemon;
pub mod dropbear;
pub mod faulty_link;
pub mod fifo;
pub mod home;
pub mod keys;
pub mod payload;
pub mod ports;
pub mod process;
pub mod prompting_server;
pub mod rpc;
pub mod security_key;
mod server_forwards;
pub mod socks;
pub mod sshd;
pub mod target;
#[cfg(target_os = "linux")]
pub mod two_hosts;
pub mod wait;
