//! Reloading the configuration of the running daemon: read everything, check everything, apply the difference.
//!
//! One task does all of it, so that two reloads never overlap. The watcher, SIGHUP and `config.reload` all send it the
//! same request. The same task resolves single tunnels again before a dial and checks tunnels given on the command
//! line, because it owns the [`Loader`](tunneld_config::load::Loader).

mod handle;
mod task;
pub mod watcher;

pub use handle::ReloadHandle;
pub(crate) use task::restore_ad_hoc;
pub use task::{ReloadContext, ReloadTask, load};
