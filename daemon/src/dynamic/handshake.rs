//! The conversation with one client up to its request and the reply, independent of the protocol and of how the bytes
//! are split over reads.

use std::fmt;

use zeroize::Zeroize as _;

use super::login::ClientLogin;
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
    /// Compare this login with the right one and say the result to [`Handshake::login_checked`].
    CheckLogin(ClientLogin),
    /// Send these bytes, then close the connection: the client sends no login, and one is required.
    LoginMissing(Vec<u8>),
    /// The client speaks HTTP, where each request has its own login. [`Handshake::into_payload`] then returns the beginning of its first request.
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
    Socks5Login,
    /// The caller compares the login.
    LoginCheck,
    LoginRefused,
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
pub struct Handshake {
    stage: HandshakeStage,
    /// Whether SOCKS clients must log in.
    needs_login: bool,
    buffer: Vec<u8>,
}

/// Without the bytes, which may contain a password.
impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("stage", &self.stage)
            .field("needs_login", &self.needs_login)
            .finish_non_exhaustive()
    }
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    /// Returns a handshake that has received no bytes and that requires no login.
    pub fn new() -> Self {
        Self {
            stage: HandshakeStage::FirstByte,
            needs_login: false,
            buffer: Vec::new(),
        }
    }

    /// Returns a handshake that has received no bytes and in which SOCKS clients must log in.
    pub fn with_login() -> Self {
        Self {
            needs_login: true,
            // A vector that grows leaves copies of the password behind, which are not overwritten.
            buffer: Vec::with_capacity(MAX_BUFFERED),
            ..Self::new()
        }
    }

    /// Says whether the login of [`HandshakeStep::CheckLogin`] is the right one.
    pub fn login_checked(&mut self, accepted: bool) -> HandshakeStep {
        self.stage = if accepted {
            HandshakeStage::Socks5Request
        } else {
            HandshakeStage::LoginRefused
        };
        match accepted {
            true => HandshakeStep::Send(socks5::LOGIN_ACCEPTED.to_vec()),
            false => HandshakeStep::Refuse(socks5::LOGIN_REFUSED.to_vec()),
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
            HandshakeStage::Socks5Greeting => self.greeting_step(),
            HandshakeStage::Socks5Login => self.login_step(),
            // The caller has not called `login_checked`, or reads on after a refusal.
            HandshakeStage::LoginCheck | HandshakeStage::LoginRefused => HandshakeStep::Close,
            HandshakeStage::Socks4Request => self.socks4_step(),
            HandshakeStage::Socks5Request => {
                self.request_step(socks5::parse_request, socks5::encode_reply)
            }
        }
    }

    fn greeting_step(&mut self) -> HandshakeStep {
        let (offered, consumed) = match socks5::parse_greeting(&self.buffer) {
            ParseOutcome::Complete { value, consumed } => (value, consumed),
            ParseOutcome::Incomplete => return HandshakeStep::ReadMore,
            ParseOutcome::Rejected(_) | ParseOutcome::Malformed => return HandshakeStep::Close,
        };
        self.buffer.drain(..consumed);
        // RFC 1928 §3: method 255 refuses the client, which then closes.
        let refusal = socks5::NO_ACCEPTABLE_METHOD.to_vec();
        match (self.needs_login, offered.none, offered.password) {
            (true, _, true) => {
                self.stage = HandshakeStage::Socks5Login;
                HandshakeStep::Send(socks5::PASSWORD_SELECTED.to_vec())
            }
            (true, _, false) => HandshakeStep::LoginMissing(refusal),
            (false, true, _) => {
                self.stage = HandshakeStage::Socks5Request;
                HandshakeStep::Send(socks5::METHOD_SELECTED.to_vec())
            }
            (false, false, _) => HandshakeStep::Refuse(refusal),
        }
    }

    fn login_step(&mut self) -> HandshakeStep {
        match socks5::parse_login(&self.buffer) {
            ParseOutcome::Complete { value, consumed } => {
                if let Some(login) = self.buffer.get_mut(..consumed) {
                    login.zeroize();
                }
                self.buffer.drain(..consumed);
                self.stage = HandshakeStage::LoginCheck;
                HandshakeStep::CheckLogin(value)
            }
            ParseOutcome::Incomplete => HandshakeStep::ReadMore,
            ParseOutcome::Rejected(_) | ParseOutcome::Malformed => HandshakeStep::Close,
        }
    }

    /// The user name of SOCKS4 has no password, so it is no login.
    fn socks4_step(&mut self) -> HandshakeStep {
        match self.request_step(socks4::parse_request, socks4::encode_reply) {
            HandshakeStep::Connect(_) if self.needs_login => {
                HandshakeStep::LoginMissing(socks4::encode_reply(ConnectReply::NotAllowed))
            }
            step => step,
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
