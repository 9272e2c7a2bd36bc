//! DNS messages as a forwarder needs them (RFC 1035 §4): which queries are passed on, which answers belong to them, and
//! the answers that the forwarder makes itself. Pure: bytes and the time go in, bytes come out. Sockets, deadlines and the
//! SSH channel are in `forward::dns`.
//!
//! Records are not interpreted: a message is passed on as it is, except for its id.

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod in_flight;
mod message;
mod query;
mod response;

pub(crate) use in_flight::{InFlight, Waiting};
pub use query::{ExtendedError, Query, QueryOutcome, ResponseCode};
pub use response::{Response, fit_datagram};

/// The longest query that is taken, in bytes. Queries of programs have less than 512; only dynamic updates are longer.
pub const MAX_QUERY_LEN: usize = 4096;
/// The longest message over TCP, in bytes: its length is a 16-bit number (RFC 1035 §4.2.2).
pub const MAX_MESSAGE_LEN: usize = u16::MAX as usize;
