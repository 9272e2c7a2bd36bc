//! The result of a connection attempt, as a SOCKS client is sent it: the reply codes of RFC 1928 §6.

use std::io;

/// The reply to a [`ConnectRequest`](super::ConnectRequest).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectReply {
    /// The connection is open; payload may follow.
    Granted,
    /// A failure that no other code describes.
    GeneralFailure,
    /// The SSH server, or `permit_remote_open`, forbids the destination.
    NotAllowed,
    /// The connecting side has no route to the destination's network.
    NetworkUnreachable,
    /// The host does not answer, or its name does not resolve.
    HostUnreachable,
    /// The host refused the connection: no program listens on the port.
    ConnectionRefused,
    /// The command is BIND, UDP ASSOCIATE or unknown.
    CommandNotSupported,
    /// The address type of the request is unknown.
    AddressTypeNotSupported,
}

impl ConnectReply {
    /// Returns the REP field of a SOCKS5 reply. Code 6, "TTL expired", is never sent.
    pub fn code(self) -> u8 {
        match self {
            Self::Granted => 0,
            Self::GeneralFailure => 1,
            Self::NotAllowed => 2,
            Self::NetworkUnreachable => 3,
            Self::HostUnreachable => 4,
            Self::ConnectionRefused => 5,
            Self::CommandNotSupported => 7,
            Self::AddressTypeNotSupported => 8,
        }
    }

    /// Returns the reply for a connection from this machine that failed (reverse SOCKS).
    pub fn from_io_error(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::NetworkUnreachable => Self::NetworkUnreachable,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
            // A name that does not resolve.
            | io::ErrorKind::NotFound
            | io::ErrorKind::AddrNotAvailable => Self::HostUnreachable,
            io::ErrorKind::PermissionDenied => Self::NotAllowed,
            _ => Self::GeneralFailure,
        }
    }
}
