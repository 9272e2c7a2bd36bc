//! ssh_config as `ssh -G` tells it: asked for, read, and its tokens expanded.

pub mod options;
pub mod printed;
pub mod query;
pub mod tokens;

#[cfg(unix)]
#[cfg(test)]
mod differential_tests;
#[cfg(unix)]
#[cfg(test)]
mod keyword_tests;
#[cfg(unix)]
#[cfg(test)]
mod tests;
