//! Layers to tunnels: defaults, ssh_config's options and the jump hosts, each resolved by itself.

pub(crate) mod forwards;
pub(crate) mod route;
pub mod ssh_options;
pub mod tunnel;
