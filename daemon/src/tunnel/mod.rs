//! One tunnel's life: the pure machine, the task that carries its actions out, and the status computed from both.

pub mod answer_cache;
pub mod connect_limiter;
pub mod credential_watch;
pub mod interactive_clients;
pub mod machine;
pub mod refresh;
pub mod registry;
pub mod status;
pub mod task;
