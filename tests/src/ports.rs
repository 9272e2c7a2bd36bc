//! Free TCP ports, for servers that cannot be started with port 0.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};
use rand::RngExt;

/// Returns a port of 127.0.0.1 that is free at this moment. It lies below the range that Linux takes the source
/// ports of outgoing connections from (32768 and up), so that no connection of another test takes it meanwhile.
///
/// # Errors
/// If a hundred random ports are all in use.
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

/// The address of `port` on 127.0.0.1.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
