//! tunneld's configuration: reads TOML files and ssh_config, checks them, resolves them to tunnels and compares them.
//!
//! From the text to the tunnel: `parse` makes a [`layer::Layer`] of each table, `resolve` merges the layers with what
//! `ssh -G` prints into a [`model::Tunnel`], [`load::Loader`] does that for a directory, and [`diff()`] compares two
//! results.
//!
//! The crate knows no runtime and starts no thread: the caller passes the time, runs [`Scan::run`] where blocking is
//! allowed, and provides [`tunneld_platform::program::RunProgram`] for `ssh -G`. When to read is the daemon's decision.

pub mod addr;
pub mod conflict;
pub mod diagnostic;
pub mod diff;
pub mod env;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod keys;
mod last_good;
pub mod layer;
pub mod load;
pub mod log_filter;
pub mod model;
pub mod parse;
pub mod resolve;
pub mod save;
mod scan;
mod settle;
pub mod ssh_config;
mod try_again;

pub use conflict::overlap;
pub use diff::{Change, diff};
pub use env::Env;
pub use last_good::CopyJob;
pub use load::{Loaded, Loader, TryAgain, ad_hoc};
pub use save::save;
pub use scan::{Scan, Scanned};
pub use tunneld_toml::name::is_config;
pub use tunneld_toml::proxy_for;
