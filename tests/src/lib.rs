//! The test lab: real SSH servers, a faulty TCP proxy, forward targets and the real daemon in a temporary home.
//!
//! Every value owns what it starts (processes, tasks, folders) and ends it on drop; tests share nothing.
//! Every wait is for an event and has a deadline, see [`wait`].
#![cfg(unix)]
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value does not panic, and a panic in the lab fails only its own test"
)]

pub mod agent;
pub mod asyncssh;
pub mod chromium;
#[cfg(target_os = "linux")]
pub mod clock;
pub mod ctl;
pub mod daemon;
#[cfg(target_os = "linux")]
pub mod debian13;
pub mod dns;
pub mod dnsmasq;
pub mod dropbear;
pub mod faulty_link;
pub mod firefox;
pub mod home;
pub mod keys;
pub mod nginx;
pub mod payload;
pub mod ports;
pub mod process;
pub mod prompting_server;
pub mod root;
pub mod rpc;
pub mod security_key;
mod server_dir;
mod server_forwards;
pub mod silent_port;
pub mod socks;
pub mod sshd;
pub mod target;
#[cfg(target_os = "linux")]
pub mod torture;
#[cfg(target_os = "linux")]
pub mod two_hosts;
pub mod unprivileged;
pub mod wait;
pub mod webdriver;
