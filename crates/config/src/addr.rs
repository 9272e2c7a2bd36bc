//! Addresses: SSH destinations, and where forwards listen and connect to.

use std::fmt;
use std::path::PathBuf;

/// A destination as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The user; `None` if not given.
    pub user: Option<String>,
    /// The host name, address or alias, without brackets.
    pub host: String,
    /// The port, 1 to 65535; `None` if not given.
    pub port: Option<u16>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        // An IPv6 address needs brackets, so that its last group is not read as a port.
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// A host name or address, not resolved, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name or an address, without brackets. It is resolved on the side that connects.
    pub host: String,
    /// The TCP port; the parser refuses 0 for a target.
    pub port: u16,
}

/// `host:port`, with brackets around an IPv6 address.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The target of a forward.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A TCP port on a host.
    Tcp(HostPort),
    /// The path of a Unix socket.
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

/// Where a forward listens, on this machine or on the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// A TCP port, on the addresses that `bind` stands for.
    Tcp {
        /// The addresses to bind, on the side that listens.
        bind: BindAddr,
        /// The port; 0 for any free one.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// The addresses that a TCP listener binds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BindAddr {
    /// 127.0.0.1 and ::1, as ssh binds if no address is given.
    Loopback,
    /// Every address (`*`, or `gateway_ports` without an address).
    Any,
    /// The address or name from the configuration.
    Host(String),
}

impl ListenAddr {
    /// The address with the port that was bound, in place of a requested port 0. Unchanged if `port` is 0, and for a Unix
    /// socket.
    #[must_use]
    pub fn with_bound_port(self, port: u16) -> Self {
        match self {
            Self::Tcp { bind, .. } if port != 0 => Self::Tcp { bind, port },
            other => other,
        }
    }
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
