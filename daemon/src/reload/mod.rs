//! Reloading the configuration of the running daemon: read everything, check everything, apply the difference.
//!
//! One task does all of it, so that two reloads never overlap. The watcher, SIGHUP and `config.reload` all send it the
//! same request. The same task resolves single tunnels again before a dial and checks tunnels given on the command
//! line, because it owns the [`ConfigReader`].

mod handle;
mod reader;
mod slow_programs;
mod task;
pub mod watcher;

pub use handle::ReloadHandle;
pub use reader::ConfigReader;
pub use task::{ReloadContext, ReloadTask};
