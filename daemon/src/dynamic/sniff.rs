//! Recognises the protocol of a dynamic forward's client by its first byte.

/// A protocol that a dynamic forward understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SOCKS4 and SOCKS4a; both start with version byte 4.
    Socks4,
    /// SOCKS5 (RFC 1928); each message starts with version byte 5.
    Socks5,
}

impl Protocol {
    /// Returns the protocol that starts with the byte `first`; `None` if no supported protocol does.
    pub fn from_first_byte(first: u8) -> Option<Self> {
        match first {
            4 => Some(Self::Socks4),
            5 => Some(Self::Socks5),
            _ => None,
        }
    }
}
