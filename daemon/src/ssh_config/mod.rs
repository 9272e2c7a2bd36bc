//! ssh_config as `ssh -G` tells it: asked for, read, and its tokens expanded.

pub mod tokens;
