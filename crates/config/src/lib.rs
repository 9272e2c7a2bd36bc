//! tunneld's configuration: TOML files and ssh_config are read, checked, resolved to tunnels and compared.
//!
//! Runs on any runtime and starts no thread: the caller gives `now`, runs [`Scan::run`] where blocking is allowed,
//! and provides [`tunneld_platform::program::RunProgram`] for `ssh -G`. The daemon's watcher decides when to read.

pub mod addr;
pub mod conflict;
pub mod diagnostic;
pub mod diff;
pub mod env;
pub mod keys;
pub mod layer;
pub mod load;
pub mod model;
pub mod parse;
pub mod resolve;
pub mod save;
mod scan;
pub mod ssh_config;

pub use conflict::overlap;
pub use diff::{Change, diff};
pub use env::Env;
pub use load::{Loaded, Loader, ad_hoc};
pub use save::save;
pub use scan::{Scan, Scanned, is_config};
