//! Layers to tunnels: merges TOML, ssh_config and defaults, expands paths, and resolves each jump host by itself.

mod expand;
pub(crate) mod forwards;
mod proxy;
pub(crate) mod route;
pub mod ssh_options;
mod ssh_values;
pub mod tunnel;
