//! Where things listen and lead to.

use std::fmt;
use std::path::PathBuf;

/// A host as it was written, resolved by whoever dials, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One end of a forward.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A TCP port on a host.
    Tcp(HostPort),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(tcp) => tcp.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Where a forward listens, on this side or the far one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// A TCP port, 0 for any.
    Tcp {
        /// The addresses.
        bind: BindAddr,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// The addresses a TCP listener takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BindAddr {
    /// 127.0.0.1 and ::1, as ssh binds where no address is given.
    Loopback,
    /// Every address (`*`, or `gateway_ports` without an address).
    Any,
    /// The address or name that was written.
    Host(String),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp {
                bind: BindAddr::Loopback,
                port,
            } => write!(f, "localhost:{port}"),
            Self::Tcp {
                bind: BindAddr::Any,
                port,
            } => write!(f, "*:{port}"),
            Self::Tcp {
                bind: BindAddr::Host(host),
                port,
            } => HostPort {
                host: host.clone(),
                port: *port,
            }
            .fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
