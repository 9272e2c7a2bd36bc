//! The request of a client, the same for every protocol, and the result type of the parsers.

use std::net::IpAddr;

use super::reply::ConnectReply;
use super::sniff::Protocol;

/// The longest host name, in bytes. SOCKS5 has one length byte for it (RFC 1928 §5); SOCKS4a names get the same limit.
pub(super) const MAX_NAME_LEN: usize = 255;

/// A connection that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The protocol of the request; the reply must use the same one.
    pub protocol: Protocol,
    /// The destination, an address or an unresolved name.
    pub host: Host,
    /// The destination port, 1 to 65535; the parsers refuse port 0.
    pub port: u16,
}

/// The destination host of a [`ConnectRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An IPv4 or IPv6 address that the client resolved itself.
    Ip(IpAddr),
    /// A name of 1 to 255 bytes without ASCII control characters; not necessarily UTF-8, otherwise as the client sent it.
    Name(Vec<u8>),
}

impl Host {
    /// Returns the host as an SSH `direct-tcpip` request carries it (RFC 4254 §7.2): a textual address or the raw name.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ip(ip) => ip.to_string().into_bytes(),
            // Not resolved here: the server resolves it, so that no DNS query leaves this machine.
            Self::Name(name) => name.clone(),
        }
    }

    /// Returns whether the host can be passed on. Names with control characters are rejected because the name reaches
    /// logs and the SSH server, where a newline or an escape sequence could do harm.
    pub(super) fn is_acceptable(&self) -> bool {
        match self {
            Self::Ip(_) => true,
            Self::Name(name) => {
                (1..=MAX_NAME_LEN).contains(&name.len()) && !name.iter().any(u8::is_ascii_control)
            }
        }
    }
}

/// What a parser concludes from the bytes received so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseOutcome<T> {
    /// The bytes are a valid beginning; more are needed.
    Incomplete,
    /// The message is complete, and its fields are valid.
    Complete {
        /// The parsed message, such as the request.
        value: T,
        /// The message's length in bytes; what follows it in the buffer belongs to the next message or the payload.
        consumed: usize,
    },
    /// The message is understood but cannot be served; the client is sent this reply.
    Rejected(ConnectReply),
    /// The bytes do not follow the protocol; the connection is closed without a reply.
    Malformed,
}
