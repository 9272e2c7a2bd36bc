//! What the transport reports to its caller.

use bytes::Bytes;

use crate::signature::Certificate;

/// A source of random bytes: fills the slice that it is given.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// Something that the caller of [`Transport::poll_event`](super::Transport::poll_event) has to act on.
#[derive(Debug)]
pub enum TransportEvent {
    /// The server's identification line, without the line end.
    Ident(String),
    /// The server proved that it holds this key. The first key exchange waits for
    /// [`Transport::accept_host_key`](super::Transport::accept_host_key).
    HostKey(Box<HostKeyOffer>),
    /// The first keys are in use: services may be requested.
    Ready(Box<Negotiated>),
    /// New keys are in use.
    Rekeyed,
    /// The server does not implement our message with this sequence number
    /// ([`Transport::last_sequence`](super::Transport::last_sequence)).
    Unimplemented(u32),
    /// A payload for the layers above, never empty: message number 6, or 50 and up.
    Packet(Bytes),
    /// The server sent DISCONNECT; no event follows.
    Disconnected {
        /// Reason code of RFC 4253 §11.1.
        code: u32,
        /// Text, cut to 1 KiB.
        text: String,
    },
}

/// The host key that the server presented. Its signature over the key exchange is verified.
#[derive(Debug, Clone)]
pub struct HostKeyOffer {
    /// The negotiated host key algorithm.
    pub algorithm: &'static str,
    /// The key or certificate as it was on the wire.
    pub blob: Bytes,
    /// The blob, parsed as a plain key or a certificate.
    pub key: HostKey,
}

impl HostKeyOffer {
    /// Returns the blob of the plain key: the presented key itself, or the key in the presented certificate.
    pub fn plain_key(&self) -> &Bytes {
        match &self.key {
            HostKey::Plain(key) => key,
            HostKey::Certificate(certificate) => &certificate.key,
        }
    }
}

/// A host key, plain or certified.
#[derive(Debug, Clone)]
pub enum HostKey {
    /// The blob of a plain key.
    Plain(Bytes),
    /// A certificate with a valid signature of its authority. The caller has to check that the authority is trusted
    /// and that the claims hold ([`Certificate::check_host`]).
    Certificate(Box<Certificate>),
}

/// The algorithms that the two sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Key exchange method, which also determines the hash.
    pub kex: &'static str,
    /// Host key algorithm, which signs the exchange hash.
    pub host_key: &'static str,
    /// Cipher from us to the server.
    pub cipher_out: &'static str,
    /// Cipher from the server to us.
    pub cipher_in: &'static str,
    /// MAC from us to the server. `None` if the cipher authenticates by itself.
    pub mac_out: Option<&'static str>,
    /// MAC from the server to us. `None` if the cipher authenticates by itself.
    pub mac_in: Option<&'static str>,
    /// Compression from us to the server.
    pub compression_out: &'static str,
    /// Compression from the server to us.
    pub compression_in: &'static str,
    /// Whether strict key exchange is in force.
    pub strict: bool,
}
