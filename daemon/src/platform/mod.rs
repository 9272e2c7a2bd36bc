//! What differs between operating systems: signals, the service manager, hardening of the process, its memory, and the
//! events of the machine (the network changed, the machine slept).

pub mod events;
pub mod heap;
pub mod process;
pub mod service;
pub mod signals;
