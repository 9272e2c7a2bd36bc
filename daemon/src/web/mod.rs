//! What the daemon serves over HTTP for programs: `/proxy.pac`, health checks and metrics (`[daemon] http_listen`).
//!
//! The HTTP proxy of dynamic forwards is in `forward/http`.

pub(crate) mod answer;
mod listener;
pub(crate) mod peer;
mod site;

pub mod health;
pub mod metrics;
pub mod request_check;

pub use listener::HttpListen;
pub use site::Sources;
