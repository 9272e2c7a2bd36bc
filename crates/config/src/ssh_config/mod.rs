//! ssh_config by way of `ssh -G`: the query, its output, and the expansion of percent tokens (ssh_config(5), TOKENS).

pub mod output;
pub mod query;
#[cfg(unix)]
#[cfg(test)]
mod tests;
pub mod tokens;
