//! The origin of a proxied request.

/// Where a request is to be sent. The far side resolves the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// A name or an address; an IPv6 address without its brackets. Not empty.
    pub host: String,
    /// The TCP port, 1 to 65535.
    pub port: u16,
}
