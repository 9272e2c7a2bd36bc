//! RFC 4253: identification, key exchange, packets, new keys.
//!
//! No socket, no clock: the driver reads into [`Transport::read_buffer`], takes events out of
//! [`Transport::poll`] and writes [`Transport::output`].

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use russh::keys::ssh_key;

use crate::config::Config;
use crate::error::Error;

/// A source of random bytes: fills what it is given.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// Something that the transport has to tell.
#[derive(Debug)]
pub enum Event {
    /// The server's identification.
    Ident(String),
    /// The server proved that it holds this key; the first exchange waits until
    /// [`Transport::accept_host_key`].
    HostKey(Box<HostKeyOffer>),
    /// The first keys are in use: services may be asked for.
    Ready(Box<Negotiated>),
    /// New keys are in use.
    Rekeyed,
    /// A payload for the floors above: message number 6, or 50 and up. Empty ones are refused.
    Packet(Bytes),
    /// The server said goodbye; nothing comes after it.
    Disconnected {
        /// The reason code of RFC 4253 §11.1.
        code: u32,
        /// The text, cut to 1 KiB.
        text: String,
    },
}

/// The key that the server showed; its signature over the exchange is already verified.
#[derive(Debug, Clone)]
pub struct HostKeyOffer {
    /// The algorithm that was agreed on.
    pub algorithm: &'static str,
    /// The key as it stood on the wire.
    pub blob: Bytes,
    /// The key, read.
    pub key: HostKey,
}

/// A host key, plain or certified.
#[derive(Debug, Clone)]
pub enum HostKey {
    /// A plain key.
    Plain(ssh_key::PublicKey),
    /// A certificate; of its claims nothing is checked yet.
    Certificate(Box<ssh_key::Certificate>),
}

/// What the two sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The key exchange method.
    pub kex: &'static str,
    /// The host key algorithm.
    pub host_key: &'static str,
    /// The cipher from us to the server.
    pub cipher_out: &'static str,
    /// The cipher from the server to us.
    pub cipher_in: &'static str,
    /// The MAC from us to the server; none where the cipher has its own.
    pub mac_out: Option<&'static str>,
    /// The MAC from the server to us; none where the cipher has its own.
    pub mac_in: Option<&'static str>,
    /// The compression from us to the server.
    pub compression_out: &'static str,
    /// The compression from the server to us.
    pub compression_in: &'static str,
    /// Whether strict key exchange is in force.
    pub strict: bool,
}

/// One connection's transport, from the first byte on.
pub struct Transport {
    read: BytesMut,
    out: BytesMut,
    session_id: Vec<u8>,
    server_sig_algs: Option<Vec<String>>,
}

impl Transport {
    /// Starts: the identification and the first KEXINIT stand in the output at once.
    pub fn new(_config: Arc<Config>, _now: Instant, _entropy: Entropy) -> Self {
        Self {
            read: BytesMut::new(),
            out: BytesMut::new(),
            session_id: Vec::new(),
            server_sig_algs: None,
        }
    }

    /// Where the driver appends what it read from the socket.
    pub fn read_buffer(&mut self) -> &mut BytesMut {
        &mut self.read
    }

    /// The next event out of what was read. After an error the transport is dead: write out
    /// what [`Transport::output`] holds and close.
    pub fn poll(&mut self, _now: Instant) -> Result<Option<Event>, Error> {
        Ok(None)
    }

    /// Seals one payload at the end of the output, or queues it while keys are exchanged.
    pub fn send(&mut self, payload: &[u8]) {
        self.send_data(payload, &[]);
    }

    /// As [`Transport::send`], for a payload in two pieces.
    pub fn send_data(&mut self, _header: &[u8], _data: &[u8]) {}

    /// Answers the packet that [`Transport::poll`] gave last with UNIMPLEMENTED.
    pub fn unimplemented(&mut self) {}

    /// What the driver writes to the socket, and advances by what was written.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Whether what is sent now is queued until new keys are in use: send no bulk meanwhile.
    pub fn is_rekeying(&self) -> bool {
        true
    }

    /// Begins an exchange of new keys, unless one is under way.
    pub fn start_rekey(&mut self, _now: Instant) {}

    /// When [`Transport::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Does what is due: new keys after a time, or the end of a server that does not finish
    /// its key exchange.
    pub fn handle_timeout(&mut self, _now: Instant) -> Result<(), Error> {
        Ok(())
    }

    /// The session identifier; empty until [`Event::Ready`].
    pub fn session_id(&self) -> &[u8] {
        &self.session_id
    }

    /// The signature algorithms that the server takes from users, once it told.
    pub fn server_sig_algs(&self) -> Option<&[String]> {
        self.server_sig_algs.as_deref()
    }

    /// Goes on with the first exchange: the host key is the right one.
    pub fn accept_host_key(&mut self, _now: Instant) {}

    /// Ends the session: DISCONNECT with HOST_KEY_NOT_VERIFIABLE stands in the output.
    pub fn reject_host_key(&mut self) {}

    /// Says goodbye: DISCONNECT stands in the output, and nothing can be sent after it.
    pub fn disconnect(&mut self, _code: u32, _text: &str) {}
}
