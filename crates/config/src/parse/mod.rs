//! TOML text to typed layers: checks each value by its key's grammar and reports every error with its place. Knows no
//! defaults and no ssh_config.

pub mod algorithms;
mod auth;
pub mod destination;
pub mod file;
pub mod forward;
pub(crate) mod lists;
pub(crate) mod syntax;
mod table;
pub mod tree;
mod tunnel;
pub mod values;
