//! ssh_config as `ssh -G` prints it: the query, its output, and the expansion of percent tokens (ssh_config(5)).

pub mod output;
pub mod query;
#[cfg(unix)]
#[cfg(test)]
mod tests;
pub mod tokens;
