//! What the daemon serves over HTTP for programs: `/proxy.pac`, health checks and metrics (`[daemon] http_listen`).
//!
//! The HTTP proxy of dynamic forwards is in `forward/http`.

mod answer;
mod listener;
mod site;

pub mod health;
pub mod metrics;
pub mod request_check;

pub use listener::HttpListen;
pub use site::Sources;
