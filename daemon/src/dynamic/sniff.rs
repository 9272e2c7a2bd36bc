//! Recognises the protocol of a dynamic forward's client by its first byte.

/// A SOCKS protocol that a dynamic forward understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SOCKS4 and SOCKS4a; both start with version byte 4.
    Socks4,
    /// SOCKS5 (RFC 1928); each message starts with version byte 5.
    Socks5,
}

impl Protocol {
    /// Returns the SOCKS protocol that starts with the byte `first`; `None` if none does.
    pub fn from_first_byte(first: u8) -> Option<Self> {
        match first {
            4 => Some(Self::Socks4),
            5 => Some(Self::Socks5),
            _ => None,
        }
    }
}

/// Returns whether an HTTP request can start with the byte `first`. Methods are tokens (RFC 9110 §9.1), and all registered
/// ones are letters. A TLS hello starts with byte 22, and a client that speaks SSH fails later, as an invalid request.
pub(super) fn starts_http(first: u8) -> bool {
    first.is_ascii_alphabetic()
}
