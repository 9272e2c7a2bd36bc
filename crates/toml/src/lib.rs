//! What the daemon and `tunnelctl` must agree on about the TOML files of the configuration: which files are read, which
//! names tunnels have, the grammar of `proxy_for`, and how a tunnel is saved without changing the rest of a file.
//!
//! The meaning of the other keys is in `tunneld-config`, which links the SSH code and therefore only the daemon uses.

pub mod name;
pub mod proxy_for;
pub mod save;
