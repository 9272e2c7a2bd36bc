//! What a client of a dynamic forward says before its bytes begin: SOCKS4, 4a and 5, told apart by the first byte.
//! Pure: bytes are pushed in, steps come out; sockets, deadlines and the opening of channels belong to `forward`.
//! Names are bytes and are never looked up here.

mod handshake;
mod reply;
mod sniff;
mod socks4;
mod socks5;

use std::net::IpAddr;

pub use handshake::{Handshake, Step};
pub use reply::Reply;
pub use sniff::Protocol;

/// A connection that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// In which protocol it was asked for, so that the answer is in the same.
    pub protocol: Protocol,
    /// Where to.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// Where a client wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, 1 to 255 bytes without control characters, else exactly as it came.
    Name(Vec<u8>),
}

impl Host {
    /// The host as an SSH server is told it.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ip(ip) => ip.to_string().into_bytes(),
            Self::Name(name) => name.clone(),
        }
    }
}

impl Request {
    /// The whole answer to it.
    pub fn answer(&self, reply: Reply) -> Vec<u8> {
        match self.protocol {
            Protocol::Socks4 => socks4::answer(reply),
            Protocol::Socks5 => socks5::answer(reply),
        }
    }
}

/// What a parser makes of the bytes that came so far.
enum Parsed<T> {
    /// Not enough yet.
    Short,
    /// A value, and how many bytes it took.
    Whole(T, usize),
    /// A wrong request that is told why.
    Refused(Reply),
    /// Not the protocol; nothing is answered.
    Broken,
}

/// Whether a name may be sent on: some bytes, none of them a control character.
fn is_sound_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.iter().any(u8::is_ascii_control)
}
