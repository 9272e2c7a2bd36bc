//! How an attempt went, as a SOCKS client is told: RFC 1928 §6.

use std::io;

use crate::session::OpenError;

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The connection stands.
    Granted,
    /// Some failure that no other code names.
    GeneralFailure,
    /// The server, or `permit_remote_open`, forbids it.
    NotAllowed,
    /// No route to its network.
    NetworkUnreachable,
    /// The host does not answer, or its name does not resolve.
    HostUnreachable,
    /// Nobody listens there.
    ConnectionRefused,
    /// BIND, UDP ASSOCIATE, or no command at all.
    CommandNotSupported,
    /// An unknown type of address.
    AddressTypeNotSupported,
}

impl Reply {
    /// The code in a SOCKS5 reply.
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

    /// What a client is told when the far side did not open its connection.
    ///
    /// RFC 4254 §5.1 has one code for every failed connect; servers put the reason into the text.
    pub fn of_open(error: &OpenError) -> Self {
        match error {
            OpenError::Refused { code: 1, .. } => Self::NotAllowed,
            OpenError::Refused { code: 2, text } => Self::of_text(text),
            OpenError::Refused { .. } => Self::GeneralFailure,
            OpenError::Timeout(_) | OpenError::SessionLost(_) => Self::HostUnreachable,
        }
    }

    fn of_text(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&["network is unreachable", "network unreachable"]) {
            Self::NetworkUnreachable
        } else if says(&[
            "timed out",
            "timeout",
            "no route",
            "unreachable",
            "unknown host",
            "not known",
            "resol",
        ]) {
            Self::HostUnreachable
        } else {
            Self::ConnectionRefused
        }
    }

    /// What a client is told when a connection from this side failed.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::NetworkUnreachable => Self::NetworkUnreachable,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
            | io::ErrorKind::NotFound
            | io::ErrorKind::AddrNotAvailable => Self::HostUnreachable,
            io::ErrorKind::PermissionDenied => Self::NotAllowed,
            _ => Self::GeneralFailure,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_open_failure_gets_its_true_code() {
        let refused = |code, text: &str| OpenError::Refused {
            code,
            text: text.to_owned(),
        };
        for (error, code) in [
            (refused(2, "Connection refused"), 5),
            (refused(2, "connect failed"), 5),
            (refused(2, "No route to host"), 4),
            (refused(2, "Connection timed out"), 4),
            (refused(2, "unknown host (Name or service not known)"), 4),
            (refused(2, "Network is unreachable"), 3),
            (refused(1, "open failed"), 2),
            (refused(3, "unknown channel type"), 1),
            (refused(4, "no resources"), 1),
            (OpenError::Timeout(Duration::from_secs(1)), 4),
            (OpenError::SessionLost("reset".to_owned()), 4),
        ] {
            assert_eq!(Reply::of_open(&error).code(), code, "{error}");
        }
    }
}
