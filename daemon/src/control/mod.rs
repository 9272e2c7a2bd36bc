//! The control socket: accepting clients, limits on each of them, and what each method does. One line of the socket is
//! one JSON-RPC 2.0 object; docs/protocol.md describes the methods.
//!
//! `server` accepts, `connection` talks to one client, `request` parses, `dispatch` carries calls out, `outbox` bounds
//! what waits to be sent.

mod connection;
mod context;
mod dispatch;
mod outbox;
mod proxy;
mod reading;
mod request;
mod result;
mod server;
mod stream;
mod subscriptions;
#[cfg(test)]
mod tests;
mod wait;

pub(crate) use connection::serve_stream;
pub use context::{ControlContext, WebRequest};
pub(crate) use dispatch::call;
pub use server::serve;
