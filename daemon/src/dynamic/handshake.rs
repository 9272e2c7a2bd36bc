//! The conversation with one client up to its request and the reply, independent of the protocol and of how the bytes
//! are split over reads.

use super::reply::ConnectReply;
use super::request::{ConnectRequest, ParseOutcome};
use super::sniff::{Protocol, starts_http};
use super::{socks4, socks5};

/// Bytes that may be buffered before the request is complete. The longest valid inputs are a SOCKS4a request with two
/// texts of 255 bytes (520 bytes) and a SOCKS5 greeting and request in one read (257 + 262 bytes).
const MAX_BUFFERED: usize = 600;

/// What the caller of [`Handshake::step`] must do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeStep {
    /// Read more bytes, [`push`](Handshake::push) them and call [`step`](Handshake::step) again.
    ReadMore,
    /// Send these bytes and call [`step`](Handshake::step) again.
    Send(Vec<u8>),
    /// Open this connection. [`Handshake::into_payload`] then returns the payload received so far.
    Connect(ConnectRequest),
    /// The client speaks HTTP. [`Handshake::into_payload`] then returns the beginning of its first request.
    Http,
    /// Send these bytes, then close the connection.
    Refuse(Vec<u8>),
    /// Close the connection without a reply: the client speaks no supported protocol.
    Close,
}

#[derive(Debug, Clone, Copy)]
enum HandshakeStage {
    FirstByte,
    Socks4Request,
    Socks5Greeting,
    Socks5Request,
}

/// The state of one client's handshake.
///
/// ```
/// use tunneld::dynamic::{Handshake, HandshakeStep};
///
/// let mut handshake = Handshake::new();
/// handshake.push(&[5, 1, 0]);
/// assert_eq!(handshake.step(), HandshakeStep::Send(vec![5, 0]));
///
/// handshake.push(b"\x05\x01\x00\x03\x02db\x15\x38first bytes");
/// let HandshakeStep::Connect(request) = handshake.step() else {
///     panic!("a complete request");
/// };
/// assert_eq!((request.host.to_bytes(), request.port), (b"db".to_vec(), 5432));
/// assert_eq!(handshake.into_payload(), b"first bytes");
/// ```
#[derive(Debug)]
pub struct Handshake {
    stage: HandshakeStage,
    buffer: Vec<u8>,
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    /// Returns a handshake that has received no bytes.
    pub fn new() -> Self {
        Self {
            stage: HandshakeStage::FirstByte,
            buffer: Vec::new(),
        }
    }

    /// Returns how many bytes [`Handshake::push`] may be given now; at least 1 after [`HandshakeStep::ReadMore`].
    pub fn capacity(&self) -> usize {
        MAX_BUFFERED.saturating_sub(self.buffer.len())
    }

    /// Appends received bytes, at most [`Handshake::capacity`].
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the bytes received after the request: the beginning of the client's payload.
    pub fn into_payload(self) -> Vec<u8> {
        self.buffer
    }

    /// Returns what to do next, given the bytes received so far.
    pub fn step(&mut self) -> HandshakeStep {
        match self.stage {
            HandshakeStage::FirstByte => {
                let Some(&first) = self.buffer.first() else {
                    return HandshakeStep::ReadMore;
                };
                self.stage = match Protocol::from_first_byte(first) {
                    Some(Protocol::Socks4) => HandshakeStage::Socks4Request,
                    Some(Protocol::Socks5) => HandshakeStage::Socks5Greeting,
                    None if starts_http(first) => return HandshakeStep::Http,
                    // No reply: it would have to be in a protocol that the client does not speak.
                    None => return HandshakeStep::Close,
                };
                self.step()
            }
            HandshakeStage::Socks5Greeting => match socks5::parse_greeting(&self.buffer) {
                ParseOutcome::Complete {
                    value: true,
                    consumed,
                } => {
                    self.buffer.drain(..consumed);
                    self.stage = HandshakeStage::Socks5Request;
                    HandshakeStep::Send(socks5::METHOD_SELECTED.to_vec())
                }
                ParseOutcome::Complete { value: false, .. } => {
                    // RFC 1928 §3: method 255 refuses the client, which then closes.
                    HandshakeStep::Refuse(socks5::NO_ACCEPTABLE_METHOD.to_vec())
                }
                ParseOutcome::Incomplete => HandshakeStep::ReadMore,
                ParseOutcome::Rejected(_) | ParseOutcome::Malformed => HandshakeStep::Close,
            },
            HandshakeStage::Socks4Request => {
                self.request_step(socks4::parse_request, socks4::encode_reply)
            }
            HandshakeStage::Socks5Request => {
                self.request_step(socks5::parse_request, socks5::encode_reply)
            }
        }
    }

    fn request_step(
        &mut self,
        parse: fn(&[u8]) -> ParseOutcome<ConnectRequest>,
        encode: fn(ConnectReply) -> Vec<u8>,
    ) -> HandshakeStep {
        match parse(&self.buffer) {
            ParseOutcome::Complete { value, consumed } => {
                self.buffer.drain(..consumed);
                HandshakeStep::Connect(value)
            }
            ParseOutcome::Incomplete => HandshakeStep::ReadMore,
            ParseOutcome::Rejected(reply) => HandshakeStep::Refuse(encode(reply)),
            ParseOutcome::Malformed => HandshakeStep::Close,
        }
    }
}

impl ConnectRequest {
    /// Returns the complete message that carries `reply` to the client that sent this request.
    pub fn encode_reply(&self, reply: ConnectReply) -> Vec<u8> {
        match self.protocol {
            Protocol::Socks4 => socks4::encode_reply(reply),
            Protocol::Socks5 => socks5::encode_reply(reply),
        }
    }
}

#[cfg(test)]
mod tests;
