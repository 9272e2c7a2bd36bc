//! The HTTP proxy of a dynamic forward, as far as it is pure: what a request asks for, which header fields are passed on,
//! and the pages that the proxy answers with. Sockets and channels are in `forward::http`.

mod destination;
pub mod headers;
pub mod login;
pub mod page;
pub mod request;
