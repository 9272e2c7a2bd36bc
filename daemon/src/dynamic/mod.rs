//! What a client of a dynamic forward sends before its payload: SOCKS4, SOCKS4a or SOCKS5 (RFC 1928), recognised by the
//! first byte, or HTTP ([`http`]). Pure: bytes go in, steps come out. Sockets, deadlines and the opening of SSH channels are in
//! `forward::dynamic`. Host names stay bytes and are not resolved here: the side that connects resolves them.
//!
//! The parsers of untrusted bytes ([`socks4::parse_request`], [`socks5::parse_greeting`], [`socks5::parse_login`],
//! [`socks5::parse_request`] and [`Handshake`], which drives them) are public so that fuzz targets can call them.

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod handshake;
pub mod http;
mod login;
mod reply;
mod request;
mod sniff;
pub mod socks4;
pub mod socks5;

pub use handshake::{Handshake, HandshakeStep};
pub use login::ClientLogin;
pub use reply::ConnectReply;
pub use request::{ConnectRequest, Host, ParseOutcome};
pub use sniff::Protocol;
