//! Which protocol a client of a dynamic forward speaks, by its first byte.

/// A protocol that a dynamic forward speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SOCKS4 and 4a.
    Socks4,
    /// SOCKS5, RFC 1928.
    Socks5,
}

impl Protocol {
    /// The protocol that begins with this byte; none for what is not spoken here.
    pub fn of(first: u8) -> Option<Self> {
        match first {
            4 => Some(Self::Socks4),
            5 => Some(Self::Socks5),
            _ => None,
        }
    }
}
