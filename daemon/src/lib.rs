//! tunneld's floors, lowest first: words (`addr`, `failure`, `prompt`), `config`, `session`, `forward`,
//! `tunnel`, `supervisor`, `control`. Imports run downward only.

pub mod addr;
pub mod backoff;
pub mod config;
pub mod desired;
pub mod duration;
pub mod failure;
pub mod forward;
pub mod log;
pub mod pattern;
pub mod platform;
pub mod prompt;
pub mod proxy;
pub mod session;
pub mod ssh_config;
pub mod supervisor;
pub mod text;
pub mod tunnel;
