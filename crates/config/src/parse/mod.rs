//! TOML text to typed layers: no defaults, no ssh_config, every fault with its place.

pub mod algorithms;
mod auth;
pub mod destination;
pub mod file;
pub mod forward;
mod lists;
mod table;
pub mod tree;
mod tunnel;
pub mod values;
