//! One tunnel: the state machine, the task that carries its actions out, and the status computed from both.
//!
//! Each tunnel is one task and has at most one SSH session. What all tunnels share lives here, too: the status
//! registry and the cache of answers.

pub mod answer_cache;
pub mod credential_watch;
pub mod interactive_clients;
pub mod machine;
mod proxy_address;
pub mod refresh;
pub mod registry;
mod session_ends;
pub mod status;
pub mod tally;
pub mod task;
