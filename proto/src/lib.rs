//! What both sides say: the control protocol's types, its framing, where it is spoken, and a client.
//!
//! JSON-RPC 2.0 objects, one a line, over a Unix socket or a named pipe. Fields and kinds are only ever
//! added; what a reader does not know it skips.
#![forbid(unsafe_code)]

pub mod client;
pub mod codec;
pub mod duration;
pub mod endpoint;
pub mod error;
pub mod message;
pub mod place;
pub mod status;
pub mod text;
pub mod version;
