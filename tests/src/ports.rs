//! Free ports for servers that cannot take port 0.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};
use rand::RngExt;

/// A port of 127.0.0.1 that was free just now, outside the range that outgoing connections take theirs from.
///
/// # Errors
/// Where a hundred tries found none.
pub fn free() -> Result<u16> {
    for _ in 0..100 {
        let port = rand::rng().random_range(10_000..32_000);
        let v4 = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        if v4.is_ok() {
            return Ok(port);
        }
    }
    bail!("found no free port between 10000 and 32000")
}

/// The address of 127.0.0.1 with `port`.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
