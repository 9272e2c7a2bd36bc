//! One tunnel's life: the pure machine, the task that carries its actions out, and the status computed from both.

pub mod attendance;
pub mod board;
pub mod gate;
pub mod machine;
pub mod recent;
pub mod refresh;
pub mod remedy;
pub mod report;
pub mod task;
