//! SOCKS4 and SOCKS4a, as the two original memos describe them: one request, one reply of eight bytes.
//! SOCKS4 has no authentication; the user name in the request is read and ignored.

use std::net::{IpAddr, Ipv4Addr};

use super::reply::ConnectReply;
use super::request::{ConnectRequest, Host, MAX_NAME_LEN, ParseOutcome};
use super::sniff::Protocol;

const VERSION: u8 = 4;
const COMMAND_CONNECT: u8 = 1;
const REPLY_GRANTED: u8 = 90;
const REPLY_REJECTED: u8 = 91;
/// Bytes before the user name: version, command, port (2) and IPv4 address (4).
const FIXED_LEN: usize = 8;
/// The longest user name, in bytes. The memo sets no limit; without one a client could make the buffer grow.
const MAX_USER_LEN: usize = 255;

/// Parses a request from the first bytes of a connection.
pub fn parse_request(bytes: &[u8]) -> ParseOutcome<ConnectRequest> {
    match bytes.first() {
        None => return ParseOutcome::Incomplete,
        Some(&VERSION) => {}
        Some(_) => return ParseOutcome::Malformed,
    }
    let Some((&[_, command, port_high, port_low, a, b, c, d], rest)) =
        bytes.split_first_chunk::<FIXED_LEN>()
    else {
        return ParseOutcome::Incomplete;
    };
    let user_len = match nul_terminated(rest, MAX_USER_LEN) {
        Terminated::Text { consumed, .. } => consumed,
        Terminated::Incomplete => return ParseOutcome::Incomplete,
        Terminated::TooLong => return ParseOutcome::Malformed,
    };
    let mut consumed = FIXED_LEN + user_len;
    // SOCKS4a: an address 0.0.0.x with x != 0 says that a host name follows the user name.
    let host = if [a, b, c] == [0, 0, 0] && d != 0 {
        let rest = bytes.get(consumed..).unwrap_or_default();
        match nul_terminated(rest, MAX_NAME_LEN) {
            Terminated::Text {
                text,
                consumed: name_len,
            } => {
                consumed += name_len;
                Host::Name(text.to_vec())
            }
            Terminated::Incomplete => return ParseOutcome::Incomplete,
            Terminated::TooLong => return ParseOutcome::Malformed,
        }
    } else {
        Host::Ip(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    let port = u16::from_be_bytes([port_high, port_low]);
    // The command is checked last so that the whole request is consumed before the client is sent a reply.
    if command != COMMAND_CONNECT {
        return ParseOutcome::Rejected(ConnectReply::CommandNotSupported);
    }
    if port == 0 || !host.is_acceptable() {
        return ParseOutcome::Rejected(ConnectReply::GeneralFailure);
    }
    let value = ConnectRequest {
        protocol: Protocol::Socks4,
        host,
        port,
    };
    ParseOutcome::Complete { value, consumed }
}

enum Terminated<'a> {
    /// The text without its NUL; `consumed` counts the NUL.
    Text {
        text: &'a [u8],
        consumed: usize,
    },
    Incomplete,
    TooLong,
}

/// Reads a text of at most `max_len` bytes that ends with a NUL.
fn nul_terminated(bytes: &[u8], max_len: usize) -> Terminated<'_> {
    // One byte more than the text may have, for its NUL.
    let window = bytes.get(..=max_len).unwrap_or(bytes);
    match window.iter().position(|&byte| byte == 0) {
        Some(end) => Terminated::Text {
            text: window.get(..end).unwrap_or_default(),
            consumed: end + 1,
        },
        None if bytes.len() > max_len => Terminated::TooLong,
        None => Terminated::Incomplete,
    }
}

/// Encodes the reply. SOCKS4 has only two codes: 90 for a granted request, 91 for every failure.
pub fn encode_reply(reply: ConnectReply) -> Vec<u8> {
    let code = match reply {
        ConnectReply::Granted => REPLY_GRANTED,
        _ => REPLY_REJECTED,
    };
    vec![0, code, 0, 0, 0, 0, 0, 0]
}
