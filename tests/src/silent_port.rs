//! A TCP port that answers no connection attempt, like a host behind a firewall that drops packets.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail};

/// Connections with which the queue of a listener with a backlog of 0 is full for certain.
const FILL_LIMIT: usize = 16;

/// A listener on all loopback addresses whose queue is full: the kernel drops every further SYN.
pub struct SilentPort {
    addr: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl SilentPort {
    /// Opens the port and fills its queue.
    ///
    /// # Errors
    /// If it cannot be opened, or still accepts connections.
    pub fn new() -> Result<Self> {
        let listener = TcpListener::bind("0.0.0.0:0")?;
        // The second call only changes the length of the queue.
        rustix::net::listen(&listener, 0)?;
        let addr = crate::ports::local(listener.local_addr()?.port());
        let mut queued = Vec::new();
        while queued.len() < FILL_LIMIT {
            match TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
                Ok(stream) => queued.push(stream),
                Err(_) => {
                    return Ok(Self {
                        addr,
                        _listener: listener,
                        _queued: queued,
                    });
                }
            }
        }
        bail!("the queue of {addr} does not fill");
    }

    /// The port, of every address of 127.0.0.0/8.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }
}
