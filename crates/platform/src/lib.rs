//! The daemon's interface to the operating system: files that are replaced as a whole, child processes, signals, the
//! service manager, hardening of the process, the reserve of file descriptors, the allocator, and system events (network change, wake-up).
//!
//! Only this crate and the endpoint of `tunneld-proto` contain code for a single operating system. Everything that
//! needs tokio is behind the feature `runtime`.

#[cfg(all(unix, feature = "runtime"))]
mod child_settings;
#[cfg(feature = "runtime")]
pub mod events;
pub mod fd_reserve;
pub mod fs;
pub mod heap;
pub mod panic;
pub mod process;
pub mod program;
pub mod service;
#[cfg(feature = "runtime")]
pub mod signals;
#[cfg(feature = "runtime")]
pub mod subprocess;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod testing;
